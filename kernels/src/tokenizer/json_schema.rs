//! JSON schemas as the grammar's crate is given them.
//!
//! Beside what it reads by itself: white space between the parts of a JSON text is
//! bounded, formats that it does not know say nothing (JSON Schema calls formats
//! annotations), and options of the crate inside a schema are not taken from whoever
//! sent it.

use super::grammar::{MAX_DEPTH, check_expression};
use serde_json::{Map, Value, json};

/// What may stand between two parts: one or two spaces, or a line's end with its
/// indentation. A model that likes white space comes to the next part all the same.
const WHITE_SPACE: &str = r"[\x20]{1,2}|\x0D?\x0A[\x20\x09]{0,32}";

/// Formats that the crate has an expression for (its `json/formats.rs`).
const FORMATS: [&str; 11] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "unknown",
    "uri",
];

/// Keywords whose value is data, not a schema.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];
/// Keywords whose value has a schema under every key.
const NAMED: [&str; 5] = [
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    "dependentSchemas",
];

/// A schema as the crate is to read it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn prepare(text: &str) -> Result<Value, String> {
    let mut schema: Value =
        serde_json::from_str(text).map_err(|e| format!("it is not JSON ({e})"))?;
    if depth(&schema) > MAX_DEPTH {
        return Err(format!("it is nested more than {MAX_DEPTH} deep"));
    }
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    walk(&mut schema)?;
    if let Value::Object(map) = &mut schema {
        let options = json!({ "whitespace_pattern": WHITE_SPACE });
        map.insert("x-guidance".to_owned(), options);
    }
    Ok(schema)
}

/// Arrays and objects inside each other. No deeper than the parser of JSON goes.
fn depth(value: &Value) -> usize {
    let inner = |values: &mut dyn Iterator<Item = &Value>| values.map(depth).max();
    match value {
        Value::Array(list) => 1 + inner(&mut list.iter()).unwrap_or(0),
        Value::Object(map) => 1 + inner(&mut map.values()).unwrap_or(0),
        _ => 0,
    }
}

fn walk(schema: &mut Value) -> Result<(), String> {
    match schema {
        Value::Array(list) => list.iter_mut().try_for_each(walk),
        Value::Object(map) => walk_keywords(map),
        _ => Ok(()),
    }
}

fn walk_keywords(map: &mut Map<String, Value>) -> Result<(), String> {
    let unknown = |format: &Value| format.as_str().is_some_and(|f| !FORMATS.contains(&f));
    if map.get("format").is_some_and(unknown) {
        map.remove("format");
    }
    if let Some(Value::String(pattern)) = map.get("pattern") {
        check_expression(pattern)?;
    }
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            (key, _) if DATA.contains(&key) => {}
            (key, Value::Object(named)) if NAMED.contains(&key) => {
                if key == "patternProperties" {
                    named.keys().try_for_each(|k| check_expression(k))?;
                }
                named.values_mut().try_for_each(walk)?;
            }
            (_, value) => walk(value)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_formats_go_and_data_and_names_stay() {
        let schema = r#"{"properties": {"format": {"format": "password"}, "const": {"format": "uuid"},
            "a": {"const": {"format": "secret"}, "anyOf": [{"format": "binary"}]}},
            "x-guidance": {"whitespace_pattern": ".*"}}"#;
        let expected = json!({
            "properties": {"format": {}, "const": {"format": "uuid"},
                "a": {"const": {"format": "secret"}, "anyOf": [{}]}},
            "x-guidance": {"whitespace_pattern": WHITE_SPACE},
        });
        assert_eq!(prepare(schema).unwrap(), expected);
    }
}

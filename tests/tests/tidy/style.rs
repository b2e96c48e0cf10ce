//! What `CONTRIBUTING.md` promises of how sources are written, and a test can count.

use super::{code_lines, files, nothing, root, shown};
use std::fs;
use std::path::PathBuf;

/// Longest source. Lines.
const SOURCE_LINES_MAX: usize = 700;
/// A function that is longer counts as long. Lines.
const FUNCTION_LINES: usize = 70;
/// Long functions outside of tests. May only fall.
const LONG_FUNCTIONS_MAX: usize = 27;

/// Sources of this workspace, without the patched copy of a foreign crate.
fn sources() -> Vec<PathBuf> {
    let mut all = files(&root(), &[".rs"]);
    all.retain(|path| !shown(path).starts_with("actors/rusqlite/"));
    all
}

#[test]
fn no_source_is_longer_than_700_lines() {
    let lines = |path: &PathBuf| fs::read_to_string(path).map_or(0, |text| text.lines().count());
    let long = sources().into_iter().filter_map(|path| {
        let lines = lines(&path);
        (lines > SOURCE_LINES_MAX).then(|| format!("{}: {lines} lines", shown(&path)))
    });
    nothing(
        &long.collect::<Vec<_>>(),
        "a source that is too long is split by what its parts do",
    );
}

/// Functions of `text`, by name, with their lines. Relies on rustfmt: a function ends with a brace
/// as far in as its first line.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (from, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let mut words = line.split_whitespace();
        let Some(name) = words.find(|word| *word == "fn").and(words.next()) else {
            continue;
        };
        let heads = ["fn ", "pub ", "pub(", "const ", "async ", "unsafe "];
        if !heads.iter().any(|head| line.trim_start().starts_with(head)) {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let rest = lines.get(from..).unwrap_or_default();
        // Where a trait declares it, or it has one line, no body follows.
        let head = rest.iter().find(|line| line.ends_with(['{', ';', '}']));
        if !head.is_some_and(|line| line.ends_with('{')) {
            continue;
        }
        if let Some(length) = rest.iter().position(|line| *line == end) {
            let name = name.split(['(', '<']).next().unwrap_or(name);
            found.push((name.to_owned(), length + 1));
        }
    }
    found
}

#[test]
fn functions_are_measured_from_their_head_to_their_brace() {
    let text = "impl A {\n    pub(super) async fn one<T>(\n        a: T,\n    ) {\n        if a {\n        }\n    }\n}\n\
                trait B {\n    fn none(&self);\n}\nfn two() {\n}\n";
    let found = functions(text);
    assert_eq!(found, [("one".to_owned(), 6), ("two".to_owned(), 2)]);
}

#[test]
fn long_functions_only_get_fewer() {
    let mut long = Vec::new();
    for path in sources() {
        let name = shown(&path);
        if name.contains("/tests") || !name.contains("/src/") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let tall = functions(&text).into_iter();
        let tall = tall.filter(|(_, lines)| *lines > FUNCTION_LINES);
        long.extend(tall.map(|(function, lines)| format!("{name}: {function}: {lines} lines")));
    }
    assert!(
        long.len() <= LONG_FUNCTIONS_MAX,
        "{} functions are longer than {FUNCTION_LINES} lines, {LONG_FUNCTIONS_MAX} were:\n{}",
        long.len(),
        long.join("\n")
    );
    assert!(
        long.len() == LONG_FUNCTIONS_MAX,
        "only {} long functions are left: lower LONG_FUNCTIONS_MAX",
        long.len()
    );
}

/// Variants whose sentence names the field that is also their source.
fn repeated_sources(lines: &[(usize, String)]) -> Vec<usize> {
    let mut found = Vec::new();
    for (at, (number, line)) in lines.iter().enumerate() {
        if !line.contains("#[error(\"") || !(line.contains("{0") || line.contains("{source")) {
            continue;
        }
        let variant = lines.iter().skip(at + 1);
        let variant = variant.take_while(|(_, line)| !line.contains("#[error("));
        let variant: String = variant.take(3).map(|(_, line)| line.as_str()).collect();
        if variant.contains("#[from]") || variant.contains("#[source]") {
            found.push(*number);
        }
    }
    found
}

#[test]
fn a_sentence_does_not_repeat_its_source() {
    let numbered = |text: &str| {
        let lines = text.lines().enumerate();
        let lines = lines.map(|(at, line)| (at + 1, line.to_owned()));
        lines.collect::<Vec<_>>()
    };
    let twice = "#[error(\"no: {0}\")]\nA(#[from] B),\n#[error(\"no\")]\nC(#[from] D),";
    assert_eq!(repeated_sources(&numbered(twice)), [1]);
    let mut found = Vec::new();
    for path in sources() {
        let lines = repeated_sources(&code_lines(&path));
        found.extend(lines.iter().map(|line| format!("{}:{line}", shown(&path))));
    }
    // This file has an example.
    found.retain(|place| !place.starts_with("tests/tests/tidy/"));
    nothing(&found, "whoever prints a chain of errors says it twice");
}

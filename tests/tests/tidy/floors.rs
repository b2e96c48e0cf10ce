//! The floors of `protocol`: which of its modules may name which.

use super::{code_lines, files, nothing, root};
use protocol::route::Actor;
use std::collections::BTreeSet;

/// The modules of `protocol`, lowest floor first: each names those of lower floors alone.
const FLOORS: [&[&str]; 8] = [
    &["codec", "ids", "limits", "money", "time"],
    &["crypto", "offence", "quota", "refusal", "work"],
    &["machine", "wire"],
    &["message", "replay"],
    &["discovery", "order", "payment", "reputation", "validator"],
    &["purchase"],
    &["inference"],
    &["route"],
];

/// The machines of a node: none names another, and only the routing names any. One that
/// [`FLOORS`] does not list lies on the floor of the first of them.
fn machines() -> [&'static str; Actor::COUNT] {
    Actor::ALL.map(Actor::name)
}

/// Modules that are a part of one machine, and the machine: nobody names them but that machine
/// and other parts of it.
const PARTS: [(&str, &str); 2] = [("order", "inference"), ("purchase", "inference")];

fn floor(module: &str) -> Option<usize> {
    let at = |module| FLOORS.iter().position(|floor| floor.contains(&module));
    let machines = machines();
    at(module).or_else(|| machines.contains(&module).then(|| at(machines[0]))?)
}

/// Whether code of one module of `protocol` may name another.
fn may_name(from: &str, to: &str) -> bool {
    let below = floor(to) < floor(from);
    let machine_of = |module| PARTS.iter().find(|(part, _)| *part == module);
    let own = machine_of(to).is_none_or(|(_, machine)| {
        *machine == from || machine_of(from).is_some_and(|(_, same)| same == machine)
    });
    let routed = !machines().contains(&to) || from == "route";
    from == to || below && own && routed
}

/// Identifiers, `::`, and braces and commas of a source.
fn tokens(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        if !token.trim().is_empty() {
            found.push(token);
        }
        rest = after;
    }
    found
}

/// The modules at the root of its crate that a source names, by `crate` or by as many `super`
/// as lead there. `depth` is how far below the root the source is.
fn named_at_root(code: &str, depth: usize) -> BTreeSet<&str> {
    let tokens = tokens(code);
    let mut found = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        let inner = at > 0 && tokens[at - 1] == "::";
        let start = at;
        at += 1;
        let mut ups = 0;
        match tokens[start] {
            "crate" if !inner => ups = depth,
            "super" if !inner => {
                ups = 1;
                while tokens.get(at..at + 2) == Some(&["::", "super"]) {
                    ups += 1;
                    at += 2;
                }
            }
            _ => {}
        }
        if ups < depth || ups == 0 || tokens.get(at) != Some(&"::") {
            continue;
        }
        at += 1;
        if tokens.get(at) != Some(&"{") {
            found.extend(tokens.get(at));
            continue;
        }
        // The first word of each entry of the list.
        let (mut open, mut fresh) = (0, false);
        while let Some(&token) = tokens.get(at) {
            match token {
                "{" => open += 1,
                "}" => open -= 1,
                _ if fresh && open == 1 && token != "," => _ = found.insert(token),
                _ => {}
            }
            fresh = open == 1 && (token == "{" || token == ",");
            at += 1;
            if open == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn a_named_module_is_found_however_it_is_written() {
    let found = |code, depth| named_at_root(code, depth).into_iter().collect::<Vec<_>>();
    assert_eq!(found("use crate::payment::ledger::Row;", 2), ["payment"]);
    assert_eq!(found("let x = crate::payment::day(1);", 1), ["payment"]);
    let list = "use crate::{ids, message::{payment, sibling}, reputation};";
    assert_eq!(found(list, 2), ["ids", "message", "reputation"]);
    let lines = "use crate::{\n    self as all,\n    validator::Config,\n};";
    assert_eq!(found(lines, 2), ["self", "validator"]);
    assert_eq!(
        found("super::super::discovery::find::best()", 2),
        ["discovery"]
    );
    assert_eq!(
        found("use super::{discovery, time};", 1),
        ["discovery", "time"]
    );
    // A sibling in its own folder, and a path that only contains the words.
    assert!(found("use super::payment::Credit; use other::crate_::x;", 2).is_empty());
    assert_eq!(
        found("use crate::message::payment::Credit;", 2),
        ["message"]
    );
}

#[test]
fn what_must_not_be_named_is_told_from_what_may() {
    for (from, to) in [
        ("discovery", "message"),
        ("inference", "order"),
        ("inference", "purchase"),
        ("purchase", "order"),
        ("route", "payment"),
        ("wire", "money"),
        ("payment", "payment"),
    ] {
        assert!(may_name(from, to), "{from} -> {to}");
    }
    for (from, to) in [
        ("discovery", "reputation"),
        ("inference", "payment"),
        ("order", "inference"),
        ("order", "purchase"),
        ("payment", "order"),
        ("payment", "purchase"),
        ("purchase", "inference"),
        ("route", "purchase"),
        ("route", "order"),
        ("message", "discovery"),
        ("wire", "message"),
        ("discovery", "route"),
        ("ids", "crypto"),
        ("ids", "time"),
    ] {
        assert!(!may_name(from, to), "{from} -> {to}");
    }
}

#[test]
fn modules_of_the_protocol_name_lower_floors_and_machines_name_no_machine() {
    let source = root().join("protocol/src");
    let mut wrong = Vec::new();
    let mut known = BTreeSet::new();
    for path in files(&source, &[".rs"]) {
        let shown = path
            .strip_prefix(&source)
            .expect("below it")
            .with_extension("");
        let module: Vec<_> = shown.iter().map(|part| part.to_string_lossy()).collect();
        let lines = code_lines(&path).into_iter().map(|(_, line)| line);
        let code = lines.collect::<Vec<_>>().join("\n");
        if module == ["lib"] {
            continue;
        }
        known.insert(module[0].to_string());
        for to in named_at_root(&code, module.len()) {
            if floor(to).is_some() && !may_name(&module[0], to) {
                wrong.push(format!("{} -> {to}", shown.display()));
            }
        }
    }
    nothing(&wrong, "a module names one that it must not know");
    let listed = FLOORS.concat().into_iter().chain(machines());
    let listed = listed.map(str::to_owned).collect();
    assert_eq!(known, listed, "each module has its floor");
}

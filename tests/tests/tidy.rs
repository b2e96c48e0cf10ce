//! The walls and the house rules, checked over `cargo metadata` and the sources.
//!
//! Not a style checker: rustfmt and clippy are. Each rule here is one that neither
//! can see. Run by `cargo test --workspace`; nothing else calls it.

#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/style.rs"]
mod style;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What the top level may hold; tool settings are dotfiles, results of a build are not looked at.
const TOP_LEVEL: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "actors",
    "benches",
    "kernels",
    "node",
    "protocol",
    "sim",
    "tests",
];

/// Which crates of this workspace each crate may use; arrows point downwards only.
const ARROWS: [(&str, &[&str]); 10] = [
    ("protocol", &[]),
    ("kernels", &[]),
    ("onion", &[]),
    ("rusqlite", &[]),
    ("sim", &["protocol"]),
    ("lab", &[]),
    ("actors", &["protocol", "kernels", "onion", "rusqlite"]),
    ("freehold", &["protocol", "kernels", "actors", "lab"]),
    (
        "tests",
        &["protocol", "kernels", "actors", "lab", "sim", "freehold"],
    ),
    (
        "benches",
        &[
            "protocol", "kernels", "actors", "lab", "sim", "freehold", "tests",
        ],
    ),
];

/// A patch under a foreign name: it re-exports, and its dependents would be rebuilt with it.
const PATCHED: &str = "rusqlite";

/// What `protocol` must not name in code: clocks, IO, threads, async, global randomness,
/// tables without an order, and floating point.
const NOT_IN_PROTOCOL: [&str; 17] = [
    "Instant",
    "SystemTime",
    "thread_rng",
    "HashMap",
    "HashSet",
    "RandomState",
    "f32",
    "f64",
    ".await",
    "async fn",
    "std::fs",
    "std::net",
    "std::io",
    "std::env",
    "std::thread",
    "tokio::",
    "actix::",
];

/// What the simulator's decisions must not depend on, for two runs of a seed to be equal.
/// (Its binary may read the clock, to draw a seed and to say how long a run took.)
const NOT_IN_SIM: [&str; 4] = ["thread_rng", "HashMap", "HashSet", "RandomState"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
        .to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata runs")
}

fn members(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    let packages = metadata.workspace_packages();
    packages.into_iter().map(|p| (p.name.as_str(), p)).collect()
}

/// All files below `folder` that end in one of `endings`, build results left out.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository is readable") {
            let path = entry.expect("a folder entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    waiting.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Lines of a source that are code: without comments, numbered from 1.
fn code_lines(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source is text");
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or("").to_owned()))
        .collect()
}

/// Whether `word` stands in `line` with no letter, digit or underscore around it.
fn names(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let opens = !word.starts_with(is_word) || !before.is_some_and(is_word);
        let closes = !word.ends_with(is_word) || !after.is_some_and(is_word);
        opens && closes
    })
}

/// A path of the repository, as it is written in messages.
fn shown(path: &Path) -> String {
    let root = root();
    let inside = path.strip_prefix(&root).unwrap_or(path);
    inside.display().to_string()
}

/// Every place under `folders` where code names one of `words`.
fn uses(folders: &[&str], words: &[&str]) -> Vec<String> {
    let root = root();
    let mut found = Vec::new();
    for folder in folders {
        for path in files(&root.join(folder), &[".rs"]) {
            // These files list the words that they look for.
            if path.starts_with(root.join("tests/tests/tidy"))
                || path.ends_with("tests/tests/tidy.rs")
            {
                continue;
            }
            let shown = shown(&path);
            for (number, line) in code_lines(&path) {
                let hits = words.iter().filter(|word| names(&line, word));
                found.extend(hits.map(|word| format!("{shown}:{number}: {word}")));
            }
        }
    }
    found
}

fn nothing(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn the_top_level_is_fixed() {
    let entries = fs::read_dir(root()).expect("the repository is readable");
    let found: BTreeSet<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    let extra: Vec<String> = found
        .into_iter()
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    nothing(&extra, "the top level holds only what the design fixes");
}

#[test]
fn arrows_between_crates_point_downwards() {
    let metadata = metadata();
    let members = members(&metadata);
    let mut wrong = Vec::new();
    for (name, package) in &members {
        let Some((_, allowed)) = ARROWS.iter().find(|(crate_name, _)| crate_name == name) else {
            wrong.push(format!("{name} is not in the table of arrows"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            // The shells' own tests may run against the lab, and damage a wallet's file.
            let in_tests =
                dependency.kind == DependencyKind::Development && ["lab", PATCHED].contains(&to);
            // The patch re-exports a crate of its own name from the registry.
            let in_registry = dependency.path.is_none() && dependency.source.is_some();
            if in_registry && to == *name {
                continue;
            }
            if members.contains_key(to) && !allowed.contains(&to) && !in_tests {
                wrong.push(format!("{name} -> {to}"));
            }
        }
    }
    nothing(&wrong, "a crate uses one that it must not know");
}

#[test]
fn only_actors_names_actix_and_only_kernels_names_cudarc() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for (name, package) in members(&metadata) {
        for dependency in &package.dependencies {
            let home = match dependency.name.as_str() {
                to if to.starts_with("actix") => "actors",
                "cudarc" => "kernels",
                "ldk-node" | "sled" => "actors",
                "arti-client" | "tor-rtcompat" => "onion",
                to if to.starts_with("libp2p") && name != "onion" => "actors",
                _ => continue,
            };
            // The lab's own tests fund real Lightning nodes on its chain.
            let in_tests = dependency.kind == DependencyKind::Development;
            if name != home && !in_tests {
                wrong.push(format!("{name} -> {}", dependency.name));
            }
        }
    }
    nothing(&wrong, "a third-party type has left its crate");
    nothing(
        &uses(
            &["protocol", "kernels", "node", "sim", "tests", "benches"],
            &["actix"],
        ),
        "only actors names actix",
    );
    nothing(
        &uses(
            &["protocol", "actors", "node", "sim", "tests", "benches"],
            &["cudarc"],
        ),
        "only kernels names cudarc",
    );
}

#[test]
fn protocol_has_no_clock_no_io_no_threads_and_no_floats() {
    nothing(
        &uses(&["protocol/src"], &NOT_IN_PROTOCOL),
        "protocol is pure",
    );
    let metadata = metadata();
    let forbidden = [
        "tokio",
        "futures",
        "actix",
        "async-trait",
        "rayon",
        "mio",
        "chrono",
        "time",
    ];
    let wrong: Vec<String> = members(&metadata)["protocol"]
        .dependencies
        .iter()
        .filter(|dependency| forbidden.contains(&dependency.name.as_str()))
        .map(|dependency| dependency.name.clone())
        .collect();
    nothing(&wrong, "protocol depends on a runtime or a clock");
}

#[test]
fn the_simulator_is_deterministic_by_construction() {
    nothing(
        &uses(&["sim/src"], &NOT_IN_SIM),
        "two runs of a seed must be equal",
    );
}

#[test]
fn unsafe_code_is_only_in_kernels() {
    nothing(
        &uses(
            &["protocol", "actors", "node", "sim", "tests", "benches"],
            &["unsafe"],
        ),
        "unsafe belongs into kernels",
    );
}

#[test]
fn every_crate_takes_the_workspaces_lints_and_licence() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for (name, package) in members(&metadata) {
        let manifest = fs::read_to_string(&package.manifest_path).expect("a manifest is text");
        if name != PATCHED && !manifest.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{name}: [lints] workspace = true is missing"));
        }
        if package.license.as_deref() != Some("MIT OR Apache-2.0") {
            wrong.push(format!("{name}: the licence is {:?}", package.license));
        }
        if package
            .publish
            .as_ref()
            .is_none_or(|registries| !registries.is_empty())
        {
            wrong.push(format!("{name}: publish = false is missing"));
        }
    }
    nothing(&wrong, "a crate left the house");
}

#[test]
fn no_work_is_left_in_the_sources_and_no_test_is_ignored() {
    let everywhere = [
        "protocol", "kernels", "actors", "node", "sim", "tests", "benches",
    ];
    let mut found = uses(
        &everywhere,
        &["todo!(", "unimplemented!(", "#[ignore", "dbg!("],
    );
    let root = root();
    for folder in everywhere {
        for path in files(&root.join(folder), &[".rs", ".toml", ".md", ".sh"]) {
            if path.ends_with("tests/tests/tidy.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            for (index, line) in text.lines().enumerate() {
                if names(line, "TODO") || names(line, "FIXME") || names(line, "XXX") {
                    found.push(format!("{}:{}", path.display(), index + 1));
                }
            }
        }
    }
    nothing(&found, "finish it, or write it down where it is decided");
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    let root = root();
    let endings = [".rs", ".toml", ".md", ".sh", ".json", "run"];
    let mut found = Vec::new();
    for path in files(&root, &endings) {
        if path.ends_with("tests/tests/tidy.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        for (index, line) in text.lines().enumerate() {
            let folders = ["/root/", "/work/", "/home/", "/Users/", "C:\\Users\\"];
            if folders.iter().any(|folder| line.contains(folder)) {
                found.push(format!("{}:{}", path.display(), index + 1));
            }
        }
    }
    nothing(&found, "a path works on one machine only");
}

#[test]
fn every_source_says_at_its_head_what_it_is() {
    let root = root();
    let found: Vec<String> = files(&root, &[".rs"])
        .into_iter()
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            !text.lines().any(|line| line.starts_with("//!"))
        })
        .map(|path| path.display().to_string())
        .collect();
    nothing(
        &found,
        "a source begins with what it is, what it is not and who calls it",
    );
}

#[test]
fn no_module_is_called_mod_rs() {
    let root = root();
    let found: Vec<String> = files(&root, &["mod.rs"])
        .into_iter()
        .filter(|path| path.ends_with("mod.rs"))
        .map(|path| path.display().to_string())
        .collect();
    nothing(&found, "foo.rs and foo/, not foo/mod.rs");
}

/// Every name in backticks in the last cell of the rows of a table.
fn named_in_last_cells(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_tests = false;
    for (index, line) in text.lines().enumerate() {
        let Some(row) = line.strip_prefix('|').and_then(|l| l.strip_suffix('|')) else {
            in_tests = false;
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or_default();
        if last.trim() == "test" {
            in_tests = true;
        } else if in_tests {
            let names = last.split('`').skip(1).step_by(2);
            found.extend(names.map(|name| (index + 1, name.to_owned())));
        }
    }
    found
}

/// The names of the functions that the test runner calls.
fn tests_in<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let (mut found, mut marked) = (Vec::new(), false);
    for line in lines.map(str::trim_start) {
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let after = line.trim_start_matches("async ");
        if let Some(name) = after.strip_prefix("fn ") {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
            if std::mem::take(&mut marked) {
                found.push(name[..end.unwrap_or(name.len())].to_owned());
            }
        }
    }
    found
}

#[test]
fn a_function_without_the_attribute_is_no_test() {
    let text = "#[test]\nfn one() {\nfn helper() {}\n}\n#[tokio::test(flavor = \"x\")]\n\
                async fn two() {}\n#[cfg(unix)]\nfn three() {}\n#[test]\n#[cfg(unix)]\nfn four() {}";
    assert_eq!(tests_in(text.lines()), ["one", "two", "four"]);
}

#[test]
fn every_test_that_the_threats_name_exists() {
    let root = root();
    let text = fs::read_to_string(root.join("protocol/THREATS.md")).expect("the threats");
    let mut known = BTreeSet::new();
    for path in files(&root, &[".rs"]) {
        let lines = code_lines(&path);
        known.extend(tests_in(lines.iter().map(|(_, line)| line.as_str())));
    }
    let named = named_in_last_cells(&text);
    assert!(named.len() > 50, "{} tests are named", named.len());
    let missing: Vec<String> = named
        .into_iter()
        .filter(|(_, name)| !known.contains(name))
        .map(|(line, name)| format!("THREATS.md:{line}: {name}"))
        .collect();
    nothing(&missing, "a threat names a test that does not exist");
}

#[test]
fn what_the_guide_to_the_protocol_names_is_there() {
    let protocol = root().join("protocol");
    let text = fs::read_to_string(protocol.join("README.md")).expect("the guide");
    let mut found = 0;
    let mut missing = Vec::new();
    for line in text.lines() {
        let cells = line.split('|').map(|cell| cell.trim().trim_matches('`'));
        let cells: Vec<&str> = cells.collect();
        let &[_, _, file, item, _] = &cells[..] else {
            continue;
        };
        if !file.ends_with(".rs") {
            continue;
        }
        found += 1;
        let source = fs::read_to_string(protocol.join("src").join(file)).unwrap_or_default();
        if !source.lines().any(|line| names(line, item)) {
            missing.push(format!("{file}: {item}"));
        }
    }
    assert!(found > 20, "{found} places are named");
    nothing(&missing, "protocol/README.md names what is not there");
}

#[test]
fn every_threat_names_a_test() {
    let text = fs::read_to_string(root().join("protocol/THREATS.md")).expect("the threats");
    let named: BTreeSet<usize> = named_in_last_cells(&text)
        .into_iter()
        .map(|n| n.0)
        .collect();
    let bare: Vec<String> = text
        .lines()
        .enumerate()
        .filter(|(index, line)| {
            let head = line.ends_with("| test |") || line.starts_with("|---");
            line.starts_with('|') && !head && !named.contains(&(index + 1))
        })
        .map(|(_, line)| line.to_owned())
        .collect();
    nothing(
        &bare,
        "a threat without a test belongs under \"Not defended\"",
    );
}

#[test]
fn the_protocol_names_every_bound_and_every_code() {
    let root = root();
    let text = fs::read_to_string(root.join("protocol/PROTOCOL.md")).expect("the protocol");
    let mut missing = Vec::new();
    for (_, line) in code_lines(&root.join("protocol/src/limits.rs")) {
        if let Some(rest) = line.strip_prefix("pub const ") {
            let name = rest.split(':').next().unwrap_or_default();
            if !text.contains(&format!("`{name}`")) {
                missing.push(name.to_owned());
            }
        }
    }
    for (_, line) in code_lines(&root.join("protocol/src/refusal.rs")) {
        let row = line.trim().strip_suffix(',').and_then(|row| {
            let (_, rest) = row.split_once(" = ")?;
            let (number, word) = rest.split_once(" \"")?;
            let number: u16 = number.parse().ok()?;
            Some(format!("| {number} | `{}` |", word.strip_suffix('"')?))
        });
        missing.extend(row.filter(|row| !text.contains(row)));
    }
    nothing(&missing, "PROTOCOL.md leaves out what the wire knows");
}

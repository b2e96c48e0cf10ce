//! Checks of `[[models]]`: what goes together, and where a runner may be.

use super::{Complaint, complain};
use crate::config::{Config, ModelEntry};
use protocol::wire::manifest::Role;
use std::net::{IpAddr, Ipv6Addr};

/// Least context of a runner: below it no chat fits.
const LEAST_CONTEXT: u32 = 64;

/// Checks every model.
pub(super) fn check(config: &Config) -> Result<(), Complaint> {
    config.models.iter().try_for_each(entry)?;
    let validates = config.roles.contains(&Role::Validator);
    if validates && config.models.iter().all(|model| model.path.is_none()) {
        return complain(
            "models",
            "has runners alone, which recompute nothing: the role validator needs a model with `path`",
        );
    }
    Ok(())
}

fn entry(entry: &ModelEntry) -> Result<(), Complaint> {
    let Some(url) = &entry.runner else {
        return without_runner(entry);
    };
    if entry.path.is_some() {
        return complain(
            "models.path",
            "stands beside `runner`: either this node computes the file, or a server does; remove one (for counting, name the file as `tokenizer`)",
        );
    }
    if entry.runner_model.as_ref().is_none_or(String::is_empty) {
        return complain(
            "models.runner_model",
            "is missing beside `runner`: name the model as the server calls it (its /models lists them)",
        );
    }
    match (entry.context, &entry.tokenizer) {
        (None, None) => complain(
            "models.context",
            "is missing: say how many tokens the server is set to (Ollama: num_ctx), or name the model's file as `tokenizer`",
        ),
        (Some(tokens), _) if tokens < LEAST_CONTEXT => complain(
            "models.context",
            format!("is {tokens}: a chat needs {LEAST_CONTEXT} at least"),
        ),
        _ => address(url),
    }
}

fn without_runner(entry: &ModelEntry) -> Result<(), Complaint> {
    let lonely = [
        ("runner_model", entry.runner_model.is_some()),
        ("runner_key", entry.runner_key.is_some()),
        ("tokenizer", entry.tokenizer.is_some()),
        ("context", entry.context.is_some()),
    ];
    if let Some((key, _)) = lonely.iter().find(|(_, is_there)| *is_there) {
        return complain(
            format!("models.{key}"),
            "is for a model at another server: name that server as `runner`, or remove the key",
        );
    }
    match &entry.path {
        Some(_) => Ok(()),
        None => complain(
            "models.path",
            "is missing: name a GGUF file or \"pocket\", or a server as `runner`",
        ),
    }
}

/// https anywhere; http only where nobody on the way can read along.
fn address(url: &str) -> Result<(), Complaint> {
    let wrong = |why: &str| complain("models.runner", format!("is `{url}`: {why}"));
    let (safe, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return wrong("write an address such as http://127.0.0.1:11434/v1"),
    };
    if rest.contains(['@', '?', '#']) || rest.contains(char::is_whitespace) {
        return wrong("name server and path alone; the key goes into `runner_key`");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() {
        return wrong("write an address such as http://127.0.0.1:11434/v1");
    }
    if !safe && !is_near(host) {
        return wrong(
            "prompts and key would travel in clear: use https, or http to this machine or its own network",
        );
    }
    Ok(())
}

/// This machine, or a network that is not the internet.
fn is_near(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || is_local(&ip),
        Err(_) => {
            let ends = [".local", ".lan", ".localhost", ".internal", ".home.arpa"];
            !host.contains('.') || ends.iter().any(|end| host.ends_with(end))
        }
    }
}

/// Link-local (fe80::/10) or unique local (fc00::/7).
fn is_local(ip: &Ipv6Addr) -> bool {
    let first = ip.segments()[0];
    first & 0xffc0 == 0xfe80 || first & 0xfe00 == 0xfc00
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(), String> {
        let entry: ModelEntry = toml::from_str(text).expect("known keys");
        self::entry(&entry).map_err(|(key, reason)| format!("{key} {reason}"))
    }

    const GOOD: &str = "runner = \"http://127.0.0.1:11434/v1\"\nrunner_model = \"llama3\"\n";

    #[test]
    fn what_does_not_go_together_is_refused_with_the_fix() {
        assert_eq!(parse(&format!("{GOOD}context = 4096")), Ok(()));
        assert_eq!(parse(&format!("{GOOD}tokenizer = \"a.gguf\"")), Ok(()));
        assert_eq!(parse("path = \"pocket\""), Ok(()));
        let cases = [
            (
                format!("{GOOD}path = \"pocket\"\ncontext = 4096"),
                "remove one",
            ),
            (GOOD.to_owned(), "num_ctx"),
            (format!("{GOOD}context = 3"), "at least"),
            (
                "runner = \"http://127.0.0.1/v1\"\ncontext = 4096".to_owned(),
                "models.runner_model",
            ),
            (
                "path = \"pocket\"\nrunner_key = \"x\"".to_owned(),
                "models.runner_key",
            ),
            (
                "path = \"pocket\"\ntokenizer = \"x\"".to_owned(),
                "models.tokenizer",
            ),
            ("name = \"x\"".to_owned(), "or a server as `runner`"),
        ];
        for (text, expected) in cases {
            let said = parse(&text).unwrap_err();
            assert!(
                said.contains(expected),
                "{said:?} where {expected:?} is due"
            );
        }
    }

    #[test]
    fn prompts_and_keys_travel_in_clear_only_where_nobody_reads_along() {
        let good = [
            "https://api.example.com/v1",
            "http://localhost:1/v1",
            "http://192.168.1.7:8000/v1",
            "http://10.0.0.1/v1",
            "http://[::1]:8080/v1",
            "http://[fd00::1]/v1",
            "http://gpu:8000/v1",
            "http://gpu.lan/v1",
        ];
        for url in good {
            assert_eq!(address(url), Ok(()), "{url}");
        }
        let bad = [
            "http://api.example.com/v1",
            "http://8.8.8.8/v1",
            "http://[2001:db8::1]/v1",
            "ftp://a/v1",
            "http:///v1",
            "https://user:pass@a.example/v1",
            "https://a.example/v1?key=x",
            "http://127.0.0.1.example.com/v1",
        ];
        for url in bad {
            assert!(address(url).is_err(), "{url}");
        }
    }
}

//! Errors name the file, the key and the fix; the written file names every key.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("freehold.toml"))
}

/// The template with every commented setting taken in.
fn uncommented() -> String {
    let setting = |line: &str| {
        line.strip_prefix('#')
            .filter(|rest| {
                rest.starts_with('[')
                    || rest
                        .split_once(" = ")
                        .is_some_and(|(key, _)| !key.contains(' ') && !key.is_empty())
            })
            .map_or_else(|| line.to_owned(), str::to_owned)
    };
    document::fresh("signet")
        .lines()
        .map(setting)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn an_unknown_key_is_an_error_with_file_line_and_the_nearest_key() {
    let error = parse("network = \"signet\"\n[budget]\nper_oder = 3\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "freehold.toml line 3: unknown key `per_oder`; did you mean `per_order`?"
    );
    let error = parse("rolls = []").unwrap_err();
    assert!(
        error.to_string().contains("did you mean `roles`?"),
        "{error}"
    );
    let error = parse("qqqqqqqq = 1").unwrap_err();
    assert!(
        error.to_string().contains("valid here: network, roles"),
        "{error}"
    );
}

#[test]
fn a_wrong_value_names_its_line_and_what_is_expected() {
    let error = parse("\nnetwork = \"testnet\"").unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
    assert!(error.to_string().contains("signet"), "{error}");
    let error = parse("[budget]\nper_order = 0.0001").unwrap_err();
    assert!(error.to_string().contains("three decimals"), "{error}");
}

#[test]
fn amounts_may_be_whole_broken_or_text() {
    let config =
        parse("[budget]\nper_order = 0.25\nper_day = \"12.5\"\nper_key = { cli = 3 }").unwrap();
    assert_eq!(config.budget.per_order.0.0, 250);
    assert_eq!(config.budget.per_day.0.0, 12_500);
    assert_eq!(config.budget.per_key.get("cli"), Some(&Sats::whole(3)));
}

#[test]
fn the_fresh_file_is_the_default_configuration() {
    assert_eq!(
        parse(&document::fresh("signet")).unwrap(),
        Config::default()
    );
}

#[test]
fn every_line_of_the_fresh_file_is_taken_when_uncommented() {
    let config = parse(&uncommented()).unwrap();
    assert_eq!(config.models.len(), 2);
    let key = config
        .models
        .iter()
        .find_map(|model| model.runner_key.as_ref());
    assert_eq!(key, Some(&KeySource::Variable("RUNNER_KEY".to_owned())));
    assert_eq!(config.gateway.keys.len(), 1);
    assert!(config.chain.is_some());
}

#[test]
fn the_fresh_file_documents_every_key() {
    let text = document::fresh("signet");
    let tables = [
        "",
        "[lightning]\n",
        "[gateway]\n",
        "[budget]\n",
        "[host]\n",
        "[validator]\n",
        "[[models]]\n",
        "[[gateway.keys]]\n",
    ];
    for table in tables {
        let ConfigError::UnknownKey { valid, .. } =
            parse(&format!("{table}no_such_key_at_all = 1")).unwrap_err()
        else {
            panic!("{table} takes unknown keys");
        };
        assert!(!valid.is_empty());
        for key in valid {
            let shown = text.lines().any(|line| {
                let line = line.trim_start_matches('#').trim_start_matches('[');
                line.starts_with(&format!("{key} = "))
                    || line.starts_with(&format!("{key}]"))
                    || line.contains(&format!(".{key}]"))
            });
            assert!(
                shown,
                "{table}: `{key}` is not in the file that init writes"
            );
        }
    }
}

#[test]
fn an_exposed_gateway_needs_consent_and_keys() {
    let error = parse("[gateway]\nlisten = \"0.0.0.0:9749\"").unwrap_err();
    assert!(error.to_string().contains("expose = true"), "{error}");
    let error = parse("[gateway]\nlisten = \"0.0.0.0:9749\"\nexpose = true").unwrap_err();
    assert!(error.to_string().contains("[[gateway.keys]]"), "{error}");
}

#[test]
fn a_role_without_a_model_and_regtest_without_a_chain_are_refused_with_the_fix() {
    let error = parse("roles = [\"host\"]").unwrap_err();
    assert!(error.to_string().contains("path = \"pocket\""), "{error}");
    let error = parse("network = \"regtest\"").unwrap_err();
    assert!(error.to_string().contains("freehold lab up"), "{error}");
    let error = parse("roles = [\"lsp\"]").unwrap_err();
    assert!(
        error.to_string().contains("does not carry out yet"),
        "{error}"
    );
}

#[test]
fn a_key_in_the_settings_is_never_printed() {
    let text = "[[models]]\nrunner = \"http://127.0.0.1:1/v1\"\nrunner_model = \"m\"\ncontext = 99\nrunner_key = \"sk-secret\"";
    let config = parse(text).unwrap();
    assert!(!format!("{config:?}").contains("sk-secret"));
    let error = parse(&text.replace("runner_key", "runner_keys")).unwrap_err();
    assert!(
        error.to_string().contains("did you mean `runner_key`?"),
        "{error}"
    );
}

#[test]
fn a_validator_needs_a_model_that_it_can_compute() {
    let runner = "runner = \"http://127.0.0.1:1/v1\"\nrunner_model = \"m\"\ncontext = 99";
    let error = parse(&format!("roles = [\"validator\"]\n[[models]]\n{runner}")).unwrap_err();
    assert!(
        error.to_string().contains("needs a model with `path`"),
        "{error}"
    );
    parse(&format!("roles = [\"host\"]\n[[models]]\n{runner}")).unwrap();
}

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
fn the_fresh_file_is_the_default_configuration_and_a_model() {
    let pocket = parse(&document::fresh("signet")).unwrap();
    assert_eq!(pocket.models.len(), 1);
    assert_eq!(pocket.models[0].path.as_deref(), Some(Path::new(POCKET)));
    let models = Vec::new();
    assert_eq!(Config { models, ..pocket }, Config::default());
    let none = parse(&document::with_models("signet", &[])).unwrap();
    assert_eq!(none, Config::default());
}

#[test]
fn a_model_that_init_was_given_is_in_the_file_whatever_its_path() {
    let odd = r#"/a "b" \ c/m.gguf"#.to_owned();
    let config = parse(&document::with_models(
        "regtest",
        std::slice::from_ref(&odd),
    ))
    .unwrap();
    assert_eq!(config.models[0].path, Some(odd.into()));
    assert_eq!(
        config.chain_source(),
        None,
        "and regtest without a chain is no error"
    );
}

#[test]
fn every_line_of_the_fresh_file_is_taken_when_uncommented() {
    let config = parse(&uncommented()).unwrap();
    assert_eq!(config.models.len(), 2, "pocket and a runner");
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
    // Behind a proxy on this machine everybody comes from the loopback.
    let error = parse("[gateway]\nexpose = true").unwrap_err();
    assert!(error.to_string().contains("[[gateway.keys]]"), "{error}");
}

#[test]
fn a_gateway_without_keys_has_a_small_budget_of_its_own() {
    let cap = |text: &str| parse(text).unwrap().caps_per_day().get("gateway").copied();
    let small = Sats::whole(KEYLESS_PER_DAY);
    assert_eq!(cap(""), Some(small));
    assert!(small < Config::default().budget.per_day);
    // The operator's word counts, and with keys the budget is nobody's.
    let own = "[budget]\nper_key = { gateway = 5000 }";
    assert_eq!(cap(own), Some(Sats::whole(5_000)));
    let keys = "[[gateway.keys]]\nname = \"editor\"\nkey = \"0123456789abcdef\"\nper_day = 7";
    assert_eq!(cap(keys), None);
    let caps = parse(keys).unwrap().caps_per_day();
    assert_eq!(caps.get("editor"), Some(&Sats::whole(7)));
}

#[test]
fn a_gateway_key_cannot_take_the_name_of_another_budget() {
    for name in ["cli", "gateway", "demo", " "] {
        let text = format!("[[gateway.keys]]\nname = \"{name}\"\nkey = \"0123456789abcdef\"");
        let error = parse(&text).unwrap_err();
        assert!(error.to_string().contains("choose another name"), "{error}");
    }
}

#[test]
fn a_role_without_a_model_is_refused_with_the_fix() {
    let error = parse("roles = [\"host\"]").unwrap_err();
    assert!(error.to_string().contains("path = \"pocket\""), "{error}");
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

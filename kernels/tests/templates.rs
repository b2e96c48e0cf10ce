//! Hostile chat templates against a renderer of child processes: each ends its own
//! request with an error, and the next request succeeds.

use kernels::{ChatMessage, ChildRenderer, RenderRequest, Renderer, TemplateError};

fn renderer(most: usize) -> ChildRenderer {
    ChildRenderer::new(env!("CARGO_BIN_EXE_render").into(), Vec::new(), most)
}

fn render(renderer: &ChildRenderer, source: &str) -> Result<String, TemplateError> {
    let said = [ChatMessage {
        role: "user".to_owned(),
        content: "Hé?".to_owned(),
    }];
    renderer.render(&RenderRequest {
        source: source.into(),
        bos: "<s>".into(),
        eos: "</s>".into(),
        messages: (&said[..]).into(),
        date: "2026-11-30".into(),
    })
}

/// Fails, and leaves the renderer fit.
fn is_stopped(source: &str) -> TemplateError {
    let renderer = renderer(1);
    let good = "{{ bos_token }}{{ messages[0].content }} {{ strftime_now('%F') }}";
    let wanted = "<s>Hé? 2026-11-30";
    assert_eq!(render(&renderer, good).unwrap(), wanted);
    let error = render(&renderer, source).unwrap_err();
    assert!(error.is_limit(), "{error}");
    assert_eq!(render(&renderer, good).unwrap(), wanted);
    error
}

#[test]
fn a_string_that_doubles_until_memory_ends() {
    is_stopped(
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}",
    );
}

#[test]
fn a_list_of_a_hundred_thousand_million_zeros() {
    is_stopped("{{ ([0] * 100000000000)|list|length }}");
}

#[test]
fn a_value_that_overflows_the_stack_when_it_is_dropped() {
    is_stopped(
        "{% set ns = namespace(x=[]) %}{% for i in range(100) %}{% for j in range(10000) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}",
    );
}

#[test]
fn replacements_in_long_strings_in_a_loop() {
    let error = is_stopped(
        "{% set ns = namespace(x='a') %}{% for i in range(22) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{% for i in range(100000) %}{% set y = ns.x|replace('a', 'b') %}{% endfor %}",
    );
    assert!(error.to_string().contains("processor time"), "{error}");
}

#[test]
fn the_template_engines_own_bounds_and_refusals_come_through() {
    let renderer = renderer(2);
    let endless =
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    let error = render(&renderer, endless).unwrap_err();
    assert!(matches!(error, TemplateError::Limit { .. }), "{error}");
    let error = render(&renderer, "{{ raise_exception('no such role') }}").unwrap_err();
    assert!(!error.is_limit());
    assert!(error.to_string().contains("no such role"), "{error}");
}

#[test]
fn many_callers_share_few_children() {
    let renderer = renderer(2);
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let renderer = &renderer;
            scope.spawn(move || {
                for turn in 0..5 {
                    let source = format!("{caller}/{turn}");
                    assert_eq!(render(renderer, &source).unwrap(), source);
                }
            });
        }
    });
}

//! What stock clients send is understood; what would change the answer is refused by name.

use super::*;
use serde_json::json;

fn order(extra: Value) -> Result<BuyOrder, ApiError> {
    let mut body = json!({"model": "pocket", "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    serde_json::from_value::<ChatRequest>(body)
        .unwrap()
        .order("gateway")
}

#[test]
fn a_plain_request_becomes_an_order_with_the_defaults() {
    let order = order(json!({})).unwrap();
    assert_eq!(order.model, ModelSelector::Name("pocket".to_owned()));
    assert_eq!(
        (order.max_output, order.seed, order.max_cost),
        (None, None, None)
    );
    assert_eq!(order.sampling, Sampling::default());
    assert_eq!(order.budget, "gateway");
}

#[test]
fn numbers_become_exact_thousandths() {
    let order = order(json!({
        "temperature": 0.1, "top_p": 0.9, "max_tokens": 7, "seed": -1, "stop": "END",
        "freehold": {"max_cost_msat": 1500, "audit": true}
    }))
    .unwrap();
    assert_eq!(
        (order.sampling.temperature_milli, order.sampling.top_p_milli),
        (100, 900)
    );
    assert_eq!((order.max_output, order.seed), (Some(7), Some(u64::MAX)));
    assert_eq!(order.stop, ["END"]);
    assert_eq!((order.max_cost, order.audit), (Some(Msat(1_500)), true));
}

#[test]
fn the_newer_name_of_max_tokens_wins() {
    let order =
        order(json!({"max_tokens": 7, "max_completion_tokens": 9, "stop": ["a", "b"]})).unwrap();
    assert_eq!(order.max_output, Some(9));
    assert_eq!(order.stop, ["a", "b"]);
}

#[test]
fn text_parts_are_joined_and_the_developer_is_the_system() {
    let messages = json!([
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null},
    ]);
    let Work::Chat { messages } = order(json!({"messages": messages})).unwrap().work else {
        panic!("no chat")
    };
    let read: Vec<_> = messages
        .iter()
        .map(|m| (m.role.as_str(), m.content.as_str()))
        .collect();
    assert_eq!(
        read,
        [("system", "be brief"), ("user", "ab"), ("assistant", "")]
    );
}

#[test]
fn an_empty_system_message_is_no_error() {
    let messages = json!([{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]);
    order(json!({"messages": messages})).unwrap();
}

#[test]
fn a_part_without_its_text_is_not_called_unsupported() {
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": null}]}]);
    let error = order(json!({"messages": parts})).unwrap_err();
    assert!(error.body.error.message.contains("without a text"));
}

#[test]
fn a_digest_is_told_from_a_name() {
    let digest = "ab".repeat(32);
    assert!(matches!(selector(&digest), Ok(ModelSelector::Digest(_))));
    assert_eq!(selector("auto").unwrap(), ModelSelector::Any);
    assert!(selector("").is_err());
}

#[test]
fn fields_that_would_change_the_answer_are_refused_by_name() {
    let refused = [
        ("n", json!(2)),
        ("tools", json!([{"type": "function"}])),
        ("response_format", json!({"type": "json_schema"})),
        ("response_format", json!({"type": "xml"})),
        ("top_logprobs", json!(3)),
        ("logit_bias", json!({"a": 2})),
        ("logit_bias", json!({"1": 101})),
        ("frequency_penalty", json!(2.5)),
        ("presence_penalty", json!(-3)),
        ("temperature", json!(2.5)),
        ("top_p", json!(-0.1)),
        ("max_tokens", json!(0)),
        ("messages", json!([])),
        ("messages", json!([{"role": "tool", "content": "x"}])),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "image_url"}]}]),
        ),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "text", "text": null}]}]),
        ),
        ("messages", json!([{"role": "user", "content": 5}])),
        ("messages", json!([{"role": "user", "content": ""}])),
        ("stop", json!(5)),
    ];
    for (field, value) in refused {
        let error = order(json!({ field: value })).unwrap_err();
        assert_eq!(error.status, 400, "{field}");
        let param = error.body.error.param.unwrap();
        assert!(param.starts_with(field), "{field}: {param}");
        assert!(error.body.error.fix.is_some(), "{field}");
    }
}

#[test]
fn the_form_of_the_answer_and_its_probabilities_reach_the_order() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let order = order(json!({
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}},
        "logprobs": true, "top_logprobs": 2, "logit_bias": {"17": -1.5},
        "frequency_penalty": 0.5, "presence_penalty": -0.25
    }))
    .unwrap();
    let steering = &order.steering;
    assert_eq!(
        steering.constraint,
        Some(Constraint::JsonSchema(schema.to_string()))
    );
    assert_eq!(steering.logprobs, Some(2));
    assert_eq!(
        steering.bias,
        [TokenBias {
            token: 17,
            milli: -1_500
        }]
    );
    assert_eq!(
        (
            order.sampling.frequency_penalty_milli,
            order.sampling.presence_penalty_milli
        ),
        (500, -250)
    );
    let order = self::order(json!({"freehold": {"regex": "[0-9]+"}})).unwrap();
    assert_eq!(
        order.steering.constraint,
        Some(Constraint::Regex("[0-9]+".to_owned()))
    );
    let two = json!({"freehold": {"regex": "a"}, "response_format": {"type": "json_object"}});
    assert!(self::order(two).is_err());
}

#[test]
fn defaults_that_clients_spell_out_and_labels_are_no_errors() {
    order(json!({
        "n": 1, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "logprobs": false,
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "user": "me", "metadata": {"a": "b"},
        "store": false, "stream": true, "stream_options": {"include_usage": true}
    }))
    .unwrap();
}

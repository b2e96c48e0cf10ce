//! The OpenAI chat answer: whole, or in chunks.
//!
//! What only this gateway knows stands in a field `freehold`, which stock clients
//! pass on: cost and fees in msat, order (the receipt's id), host.

use super::purchase::Ending;
use protocol::wire::attached::{TokenLogprob, TokenLogprobs};
use protocol::wire::order::Finish;
use serde_json::{Value, json};

/// What all parts of one answer have in common.
#[derive(Debug, Clone)]
pub struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    /// Draws an id.
    pub fn new(model: &str, now_s: u64) -> Self {
        let mut id = [0u8; 12];
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut id);
        Head {
            id: format!("chatcmpl-{}", hex::encode(id)),
            created: now_s,
            model: model.to_owned(),
        }
    }

    /// The whole answer.
    pub fn whole(&self, text: &str, logprobs: &[TokenLogprobs], ending: &Ending) -> Value {
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": [{
                "index": 0, "logprobs": probabilities(logprobs),
                "finish_reason": finish_reason(ending.finish),
                "message": {"role": "assistant", "content": text, "refusal": null},
            }],
            "usage": usage(ending),
            "freehold": extension(ending),
        })
    }

    /// The first chunk.
    pub fn opening(&self) -> Value {
        self.chunk(json!({"role": "assistant", "content": ""}), Value::Null)
    }

    /// A chunk of text.
    pub fn text(&self, text: &str, logprobs: &[TokenLogprobs]) -> Value {
        let mut chunk = self.chunk(json!({"content": text}), Value::Null);
        chunk["choices"][0]["logprobs"] = probabilities(logprobs);
        chunk
    }

    /// The chunk that says why output ended.
    pub fn closing(&self, ending: &Ending) -> Value {
        let mut chunk = self.chunk(json!({}), json!(finish_reason(ending.finish)));
        chunk["freehold"] = extension(ending);
        chunk
    }

    /// The chunk with the usage, which has no choice.
    pub fn usage(&self, ending: &Ending) -> Value {
        let mut chunk = self.chunk(json!({}), Value::Null);
        chunk["choices"] = json!([]);
        chunk["usage"] = usage(ending);
        chunk
    }

    fn chunk(&self, delta: Value, finish: Value) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
        })
    }
}

/// OpenAI's name for an end. A cap that was reached is told as an error where that is
/// possible; in a whole answer it shows as a cut one.
fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::Stopped => "stop",
        Finish::Length | Finish::Budget => "length",
    }
}

/// OpenAI's form of probabilities; null where none were asked for.
fn probabilities(logprobs: &[TokenLogprobs]) -> Value {
    if logprobs.is_empty() {
        return Value::Null;
    }
    let one = |token: &TokenLogprob| {
        json!({
            "token": String::from_utf8_lossy(&token.bytes), "bytes": token.bytes,
            "logprob": token.micro as f64 / 1e6,
        })
    };
    let content: Vec<Value> = logprobs
        .iter()
        .map(|each| {
            let mut value = one(&each.chosen);
            value["top_logprobs"] = each.top.iter().map(one).collect();
            value
        })
        .collect();
    json!({"content": content, "refusal": null})
}

fn usage(ending: &Ending) -> Value {
    let input = ending.counts.prompt();
    let output = ending.counts.output_tokens;
    json!({
        "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": ending.counts.cached_input_tokens},
        "cost_msat": ending.cost,
        "freehold": extension(ending),
    })
}

pub(super) fn extension(ending: &Ending) -> Value {
    json!({
        "cost_msat": ending.cost, "fees_msat": ending.fees, "receipt": ending.order, "host": ending.host,
        "local": ending.order.is_none(), "finish": ending.finish,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ids::{NodeKey, OrderId};
    use protocol::money::{Counts, Msat};

    fn ending() -> Ending {
        Ending {
            finish: Finish::Length,
            counts: Counts {
                input_tokens: 3,
                cached_input_tokens: 2,
                output_tokens: 7,
                items: 0,
            },
            cost: Msat(1_234),
            fees: Msat(5),
            order: Some(OrderId([1; 16])),
            host: Some(NodeKey([2; 32])),
        }
    }

    #[test]
    fn usage_counts_cached_tokens_as_prompt_and_names_cost_and_receipt() {
        let answer = Head::new("pocket", 9).whole("hi", &[], &ending());
        assert_eq!(answer["usage"]["prompt_tokens"], 5);
        assert_eq!(answer["usage"]["total_tokens"], 12);
        assert_eq!(answer["usage"]["cost_msat"], 1_234);
        assert_eq!(answer["usage"]["freehold"]["receipt"], "01".repeat(16));
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }

    #[test]
    fn probabilities_have_the_form_that_clients_read() {
        let token = |token, bytes: &[u8], micro| TokenLogprob {
            token,
            bytes: bytes.to_vec(),
            micro,
        };
        let logprobs = [TokenLogprobs {
            chosen: token(1, b"a", -500_000),
            top: vec![token(2, &[0xc3], -250_000)],
        }];
        let chunk = Head::new("pocket", 9).text("a", &logprobs);
        let one = &chunk["choices"][0]["logprobs"]["content"][0];
        assert_eq!(
            (&one["token"], &one["logprob"]),
            (&json!("a"), &json!(-0.5))
        );
        assert_eq!(one["top_logprobs"][0]["bytes"], json!([0xc3]));
        let none = Head::new("pocket", 9).text("a", &[]);
        assert_eq!(none["choices"][0]["logprobs"], Value::Null);
    }

    #[test]
    fn the_usage_chunk_has_no_choice_and_all_chunks_one_id() {
        let head = Head::new("pocket", 9);
        let chunks = [
            head.opening(),
            head.text("a", &[]),
            head.closing(&ending()),
            head.usage(&ending()),
        ];
        assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
        assert_eq!(chunks[3]["choices"], json!([]));
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    }
}

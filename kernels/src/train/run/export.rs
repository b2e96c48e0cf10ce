//! The finished model as a GGUF file: qwen3, Q8_0 matrices, f32 norms, ChatML.
//!
//! Called by the `pocket` binary and by tests.

use super::Run;
use crate::gguf::write::{Encoding, Value, Writer};
use crate::train::bpe::SPECIALS;
use crate::train::net::{NORM_EPS, ROPE_BASE};

/// ChatML, with the generation prompt that clients ask for.
const CHAT_TEMPLATE: &str = "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}";

/// Types of tokens in GGUF.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

impl Run {
    /// The bytes of the model file.
    pub fn export(&self) -> Vec<u8> {
        let s = &self.shape;
        let mut w = Writer::new("qwen3");
        let text = |x: &str| Value::Text(x.into());
        w.key("general.name", text("freehold pocket"));
        w.key(
            "general.description",
            text("A toy model trained on text that freehold generates about itself."),
        );
        w.key("general.license", text("MIT OR Apache-2.0"));
        w.key("general.quantization_version", Value::U32(2));
        // 7 means mostly Q8_0 in ggml's list of file types.
        w.key("general.file_type", Value::U32(7));
        for (name, size) in [
            ("block_count", s.layers),
            ("context_length", s.context),
            ("embedding_length", s.dim),
            ("feed_forward_length", s.ffn),
            ("attention.head_count", s.heads),
            ("attention.head_count_kv", s.kv_heads),
            ("attention.key_length", s.head_dim),
            ("attention.value_length", s.head_dim),
            ("rope.dimension_count", s.head_dim),
            ("vocab_size", s.vocab),
        ] {
            w.key(&format!("qwen3.{name}"), Value::U32(size as u32));
        }
        w.key(
            "qwen3.attention.layer_norm_rms_epsilon",
            Value::F32(NORM_EPS),
        );
        w.key("qwen3.rope.freq_base", Value::F32(ROPE_BASE));
        self.tokenizer(&mut w);
        for t in s.tensors() {
            let weights = &self.weights[t.range.clone()];
            match t.is_norm() {
                true => w.tensor(&t.name, &[t.cols], weights, Encoding::F32),
                false => w.tensor(&t.name, &[t.cols, t.rows], weights, Encoding::Q8_0),
            }
        }
        w.finish()
    }

    fn tokenizer(&self, w: &mut Writer) {
        let tokens = self.vocab.texts();
        let plain = tokens.len() - SPECIALS.len();
        let types = (0..tokens.len())
            .map(|i| if i < plain { NORMAL } else { CONTROL })
            .collect();
        w.key("tokenizer.ggml.model", Value::Text("gpt2".into()));
        w.key("tokenizer.ggml.pre", Value::Text("qwen2".into()));
        w.key("tokenizer.ggml.tokens", Value::Texts(tokens));
        w.key("tokenizer.ggml.token_type", Value::I32s(types));
        w.key(
            "tokenizer.ggml.merges",
            Value::Texts(self.vocab.merge_texts()),
        );
        w.key(
            "tokenizer.ggml.bos_token_id",
            Value::U32(self.vocab.special(0)),
        );
        w.key(
            "tokenizer.ggml.eos_token_id",
            Value::U32(self.vocab.special(2)),
        );
        w.key(
            "tokenizer.ggml.padding_token_id",
            Value::U32(self.vocab.special(0)),
        );
        w.key("tokenizer.ggml.add_bos_token", Value::Bool(false));
        w.key("tokenizer.chat_template", Value::Text(CHAT_TEMPLATE.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::small;
    use crate::gguf::{Gguf, TensorType};
    use crate::tokenizer::Tokenizer;
    use crate::{CancelFlag, ChatMessage, Generation, Model, OpenOptions, Sampling};

    #[test]
    fn the_engine_reads_the_file_and_splits_text_into_the_same_tokens() {
        let mut run = small(1);
        let file = Gguf::from_bytes(run.export()).expect("a file of our own");
        assert_eq!(file.str("general.architecture").ok(), Some("qwen3"));
        assert_eq!(file.uint("qwen3.attention.key_length").ok(), Some(32));
        let names: Vec<String> = run.shape.tensors().into_iter().map(|t| t.name).collect();
        assert_eq!(file.tensors().len(), names.len());
        for t in run.shape.tensors() {
            let read = file.tensor(&t.name).expect("every tensor is there");
            assert_eq!(
                (read.row_len(), read.rows()),
                (t.cols, t.rows),
                "{}",
                t.name
            );
            assert_eq!(
                read.ty,
                if t.is_norm() {
                    TensorType::F32
                } else {
                    TensorType::Q8_0
                }
            );
        }
        let tokenizer = Tokenizer::from_gguf(&file).expect("a vocabulary of our own");
        assert_eq!(tokenizer.eos(), Some(run.vocab.special(2)));
        for text in [
            "user\nWhat is 12 + 7?",
            "  The host's relay\n\n\tGröße 東京 \u{1f600}!",
            "a",
        ] {
            let mut ours = Vec::new();
            run.vocab.encode(text, &mut ours);
            assert_eq!(tokenizer.encode(text, false), ours, "{text:?}");
        }
        let prompt = tokenizer.encode("<|im_start|>user\n<|im_end|>", true);
        assert_eq!(prompt[0], run.vocab.special(1));
        assert_eq!(prompt.last(), Some(&run.vocab.special(2)));
    }

    #[test]
    fn the_engine_chooses_what_the_unrounded_weights_prefer() {
        let mut run = small(1);
        for _ in 0..6 {
            run.advance();
        }
        let model = Model::from_bytes(run.export(), &OpenOptions::default()).expect("a model");
        let messages = [ChatMessage {
            role: "user".into(),
            content: "What is a relay?".into(),
        }];
        let mut tokens = model
            .encode_chat(&messages, "2026-01-01")
            .expect("a template");
        let start = tokens.len();
        let mut answer = Generation::new(&model, &tokens, Sampling::default(), 0, 40, &[])
            .expect("within the context");
        answer.prefill(&CancelFlag::new()).expect("not cancelled");
        for _ in 0..40 {
            let logits = run.next_logits(&tokens);
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            let min = logits.iter().copied().fold(f32::MAX, f32::min);
            let Ok(step) = answer.step() else { break };
            let lost = max - logits[step.token as usize];
            // Rounding to Q8_0 may swap near equals, but no more than that.
            assert!(lost <= 0.02 * (max - min), "{lost} of {min} to {max}");
            tokens.push(step.token);
        }
        assert!(tokens.len() > start);
    }
}

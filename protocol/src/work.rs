//! What can be bought: kinds of work and how output tokens are drawn.
//!
//! Not prices and not execution. Every number is an integer, so that one request
//! has one encoding and one digest.

use crate::codec::Extension;
use crate::limits;
use crate::money::Meter;
use serde::{Deserialize, Serialize};

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Text.
    pub content: String,
}

/// The work itself. Later kinds are added at the end, never in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Answer a chat, rendered with the model's own template.
    Chat {
        /// The conversation so far.
        messages: Vec<ChatMessage>,
    },
    /// Continue raw text, without a template.
    Complete {
        /// The text.
        prompt: String,
    },
    /// Embed each text.
    Embed {
        /// The texts.
        texts: Vec<String>,
    },
}

/// How tokens are drawn; thousandths where the field uses fractions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampling {
    /// Temperature in thousandths; 0 is greedy.
    pub temperature_milli: u32,
    /// Keep the k likeliest; 0 keeps all.
    pub top_k: u32,
    /// Nucleus in thousandths; 1,000 keeps all.
    pub top_p_milli: u32,
    /// Least probability relative to the likeliest, in thousandths; 0 keeps all.
    pub min_p_milli: u32,
    /// Repetition penalty in thousandths; 1,000 is none.
    pub repetition_penalty_milli: u32,
    /// Taken from the logits of recent tokens, in thousandths, -2,000 to 2,000.
    #[serde(default)]
    pub presence_penalty_milli: i32,
    /// Taken once for each time they occur, in thousandths, -2,000 to 2,000.
    #[serde(default)]
    pub frequency_penalty_milli: i32,
}

impl Default for Sampling {
    /// Temperature 0.7, nucleus 0.95, as most chat clients send.
    fn default() -> Self {
        Sampling {
            temperature_milli: 700,
            top_k: 0,
            top_p_milli: 950,
            min_p_milli: 0,
            repetition_penalty_milli: 1_000,
            presence_penalty_milli: 0,
            frequency_penalty_milli: 0,
        }
    }
}

/// What the text of an answer must look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// A JSON object.
    Json,
    /// JSON after this schema (JSON Schema, as text).
    JsonSchema(String),
    /// A text that this regular expression matches whole.
    Regex(String),
    /// A text of this grammar, in the dialect of Lark that llguidance reads.
    Lark(String),
}

impl Constraint {
    fn bytes(&self) -> usize {
        match self {
            Constraint::Json => 0,
            Constraint::JsonSchema(text) | Constraint::Regex(text) | Constraint::Lark(text) => {
                text.len()
            }
        }
    }
}

/// A shift of one token's logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBias {
    /// The token.
    pub token: u32,
    /// Thousandths, at most 100,000 either way.
    pub milli: i32,
}

/// What is asked of an answer beyond its sampling. The default asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Steering {
    /// Added to the logits.
    pub bias: Vec<TokenBias>,
    /// The form of the text.
    pub constraint: Option<Constraint>,
    /// Report the probability of each token, and of this many alternatives.
    pub logprobs: Option<u32>,
}

/// A complete, canonical description of a job: with the model's digest it fixes the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What to do.
    pub work: Work,
    /// Most output tokens.
    pub max_output: u32,
    /// How to draw them.
    pub sampling: Sampling,
    /// Chosen by the buyer; the noise of token n is a function of (seed, n, token id).
    pub seed: u64,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// The date that chat templates may print, `YYYY-MM-DD`; the buyer's, so that a replay sees the same.
    pub date: String,
    /// Form of the answer, shifts of logits, probabilities.
    pub steering: Steering,
    /// Tokens of this answer that another host delivered already: the answer goes on behind
    /// them, and they are billed as input. Hosts of this version refuse a prefix.
    #[serde(default)]
    pub prefix: Vec<u32>,
    /// Extension records.
    #[serde(default)]
    pub extensions: Vec<Extension>,
}

/// A job outside the protocol's limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {found}, the limit is {limit}: shorten the request")]
pub struct JobError {
    /// What is too large.
    pub what: &'static str,
    /// Its size.
    pub found: usize,
    /// The bound.
    pub limit: usize,
}

impl Job {
    /// Checks the job against the protocol's limits.
    ///
    /// # Errors
    /// The first limit that is passed.
    pub fn check(&self) -> Result<(), JobError> {
        let at_most = |what, found, limit| {
            if found > limit {
                Err(JobError { what, found, limit })
            } else {
                Ok(())
            }
        };
        at_most(
            "max_output (tokens)",
            self.max_output as usize,
            limits::MAX_OUTPUT_TOKENS as usize,
        )?;
        at_most(
            "number of stop strings",
            self.stop.len(),
            limits::MAX_STOP_STRINGS,
        )?;
        for stop in &self.stop {
            at_most("a stop string (bytes)", stop.len(), limits::MAX_STOP_BYTES)?;
        }
        at_most("the date (bytes)", self.date.len(), 32)?;
        at_most(
            "the prefix (tokens)",
            self.prefix.len(),
            limits::MAX_OUTPUT_TOKENS as usize,
        )?;
        self.check_steering(at_most)?;
        let (what, most) = match self.work {
            Work::Embed { .. } => ("number of texts", limits::MAX_EMBED_TEXTS),
            _ => ("number of messages", limits::MAX_CHAT_MESSAGES),
        };
        at_most(what, self.messages(), most)?;
        at_most(
            "the prompt (bytes)",
            self.text_bytes(),
            limits::MAX_PROMPT_BYTES,
        )
    }

    fn check_steering(
        &self,
        at_most: impl Fn(&'static str, usize, usize) -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let Steering {
            bias,
            constraint,
            logprobs,
        } = &self.steering;
        let largest = bias.iter().map(|bias| bias.milli.unsigned_abs()).max();
        at_most("number of biased tokens", bias.len(), limits::MAX_BIASES)?;
        at_most(
            "a bias (thousandths)",
            largest.unwrap_or(0) as usize,
            limits::MAX_BIAS_MILLI as usize,
        )?;
        at_most(
            "the schema or grammar (bytes)",
            constraint.as_ref().map_or(0, Constraint::bytes),
            limits::MAX_CONSTRAINT_BYTES,
        )?;
        at_most(
            "number of alternatives with probabilities",
            logprobs.unwrap_or(0) as usize,
            limits::MAX_LOGPROBS as usize,
        )
    }

    /// What one delivered unit is: an embedding is an item, anything else a token.
    pub fn meter(&self) -> Meter {
        match self.work {
            Work::Embed { .. } => Meter::Item,
            Work::Chat { .. } | Work::Complete { .. } => Meter::OutputToken,
        }
    }

    /// Most units that can be delivered: an embedding of each text, or the output tokens.
    pub fn most_delivered(&self) -> u64 {
        match &self.work {
            Work::Embed { texts } => texts.len() as u64,
            Work::Chat { .. } | Work::Complete { .. } => u64::from(self.max_output),
        }
    }

    fn messages(&self) -> usize {
        match &self.work {
            Work::Chat { messages } => messages.len(),
            Work::Complete { .. } => 1,
            Work::Embed { texts } => texts.len(),
        }
    }

    /// Bytes of text in the job: an upper bound of its tokens for byte-level vocabularies,
    /// before template text.
    pub fn text_bytes(&self) -> usize {
        match &self.work {
            Work::Chat { messages } => messages
                .iter()
                .map(|message| message.role.len() + message.content.len())
                .sum(),
            Work::Complete { prompt } => prompt.len(),
            Work::Embed { texts } => texts.iter().map(String::len).sum(),
        }
    }
}

//! Text to train the pocket model on, made by the project itself.
//!
//! A grammar (`kernels/pocket/corpus.txt`) gives questions and answers about freehold and
//! short stories; `sums` makes arithmetic, counting, days, months and colours. Exchange n of
//! a seed is a function of (seed, n), so the corpus has no file and no end. Called by
//! [`super::run`].

mod sums;

use super::rng::Rng;

const GRAMMAR: &str = include_str!("../../pocket/corpus.txt");

/// Share, in percent, of exchanges that [`sums`] makes.
const SUMS_PERCENT: usize = 30;

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What the user writes.
    pub question: String,
    /// What the model answers.
    pub answer: String,
}

#[derive(Clone, Default)]
struct Topic {
    weight: usize,
    questions: Vec<&'static str>,
    answers: Vec<&'static str>,
}

/// The grammar, read.
pub struct Corpus {
    lists: Vec<(&'static str, Vec<&'static str>)>,
    topics: Vec<Topic>,
    /// The topics whose answers name something that the question named.
    bound: Vec<Topic>,
}

impl Default for Corpus {
    fn default() -> Self {
        Self::new()
    }
}

impl Corpus {
    /// Reads the grammar that is compiled in.
    pub fn new() -> Self {
        let mut corpus = Self {
            lists: Vec::new(),
            topics: Vec::new(),
            bound: Vec::new(),
        };
        for line in GRAMMAR.lines() {
            let Some((mark, rest)) = line.split_at_checked(1) else {
                continue;
            };
            let rest = rest.trim();
            match mark {
                "@" => {
                    let (name, list) = rest.split_once('=').unwrap_or((rest, ""));
                    let list = list.split('|').map(str::trim).collect();
                    corpus.lists.push((name.trim(), list));
                }
                "%" => {
                    let weight = rest
                        .rsplit(' ')
                        .next()
                        .and_then(|w| w.parse().ok())
                        .unwrap_or(1);
                    corpus.topics.push(Topic {
                        weight,
                        ..Topic::default()
                    });
                }
                "Q" | "A" => {
                    let Some(topic) = corpus.topics.last_mut() else {
                        continue;
                    };
                    let list = if mark == "Q" {
                        &mut topic.questions
                    } else {
                        &mut topic.answers
                    };
                    list.push(rest);
                }
                _ => {}
            }
        }
        let names = |list: &[&str]| list.iter().any(|line| line.contains('$'));
        let bound = |t: &&Topic| names(&t.questions) && names(&t.answers);
        corpus.bound = corpus.topics.iter().filter(bound).cloned().collect();
        corpus
    }

    /// Draws one exchange.
    pub fn exchange(&self, rng: &mut Rng) -> Exchange {
        let mut made = match rng.chance(SUMS_PERCENT) {
            true => sums::draw(rng),
            false => self.told(rng, &self.topics),
        };
        loosen(&mut made.question, rng);
        made
    }

    /// Draws one exchange, mostly of the kinds whose answer repeats a part of the question.
    pub fn focused(&self, rng: &mut Rng) -> Exchange {
        let mut made = match rng.below(10) {
            0..=5 => sums::draw(rng),
            6 | 7 => self.told(rng, &self.bound),
            _ => self.told(rng, &self.topics),
        };
        loosen(&mut made.question, rng);
        made
    }

    fn told(&self, rng: &mut Rng, topics: &[Topic]) -> Exchange {
        let mut at = rng.below(topics.iter().map(|t| t.weight).sum());
        let mut topic = &topics[0];
        for t in topics {
            topic = t;
            if at < t.weight {
                break;
            }
            at -= t.weight;
        }
        let mut bound = Vec::new();
        let question = self.expand(
            topic.questions[rng.below(topic.questions.len())],
            rng,
            &mut bound,
        );
        let answer = self.expand(
            topic.answers[rng.below(topic.answers.len())],
            rng,
            &mut bound,
        );
        Exchange { question, answer }
    }

    /// Fills in `{a|b}` and `$name`.
    fn expand(&self, text: &str, rng: &mut Rng, bound: &mut Vec<(String, String)>) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(i) = rest.find(['{', '$']) {
            out.push_str(&rest[..i]);
            if rest[i..].starts_with('{') {
                let (parts, end) = alternatives(&rest[i..]);
                out.push_str(&self.expand(parts[rng.below(parts.len())], rng, bound));
                rest = &rest[i + end..];
            } else {
                let name = &rest[i + 1..];
                let end = name
                    .find(|c: char| !c.is_ascii_alphanumeric())
                    .unwrap_or(name.len());
                out.push_str(&self.bind(&name[..end], rng, bound));
                rest = &name[end..];
            }
        }
        out + rest
    }

    /// The entry bound to `name`, drawn at first use, different from those of its siblings.
    fn bind(&self, name: &str, rng: &mut Rng, bound: &mut Vec<(String, String)>) -> String {
        if let Some((_, value)) = bound.iter().find(|(n, _)| n == name) {
            return value.clone();
        }
        let base = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let Some((_, list)) = self.lists.iter().find(|(n, _)| *n == base) else {
            return name.to_string();
        };
        let free: Vec<&str> = list
            .iter()
            .copied()
            .filter(|v| bound.iter().all(|(_, b)| b != v))
            .collect();
        let value = free
            .get(rng.below(free.len()))
            .copied()
            .unwrap_or("")
            .to_string();
        bound.push((name.to_string(), value.clone()));
        value
    }
}

/// The parts between the brace that opens `text` and its partner, and the length of it all.
fn alternatives(text: &str) -> (Vec<&str>, usize) {
    let (mut depth, mut start, mut parts) = (0, 1, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            '|' if depth == 1 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
        if depth == 0 {
            parts.push(&text[start..i]);
            return (parts, i + 1);
        }
    }
    (vec![text], text.len())
}

/// People do not always write capitals and marks.
fn loosen(question: &mut String, rng: &mut Rng) {
    match rng.below(12) {
        0 | 1 => *question = question.to_lowercase(),
        2 if is_request(question) => *question = format!("Please {}", lower_first(question)),
        3 => *question = format!("Hi, {}", lower_first(question)),
        _ => {}
    }
    if rng.chance(20) {
        let end = question.trim_end_matches(['?', '.', '!']).len();
        question.truncate(end);
    }
}

/// Whether "please" can stand in front.
fn is_request(question: &str) -> bool {
    const VERBS: [&str; 9] = [
        "Tell", "Explain", "Describe", "Write", "Add", "Take", "Count", "Name", "List",
    ];
    VERBS.iter().any(|v| question.starts_with(v))
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        // "I" stays a capital.
        Some(c) if !text.starts_with("I ") => c.to_lowercase().chain(chars).collect(),
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_repeat_and_leave_no_mark_of_the_grammar() {
        let corpus = Corpus::new();
        assert!(corpus.topics.len() > 15);
        for n in 0..3000 {
            let e = corpus.exchange(&mut Rng::new(1, n));
            assert_eq!(e, corpus.exchange(&mut Rng::new(1, n)));
            let all = format!("{} {}", e.question, e.answer);
            assert!(!all.contains(['{', '}', '$', '|', '%', '@']), "{all}");
            assert!(e.answer.split(' ').count() >= 25, "{all}");
            assert!(e.answer.split(' ').count() <= 240, "{all}");
        }
    }

    #[test]
    fn nested_alternatives_are_cut_at_the_outer_bars() {
        let (parts, end) = alternatives("{a|b {c|d}|e} f");
        assert_eq!(parts, ["a", "b {c|d}", "e"]);
        assert_eq!(end, 13);
    }
}

//! Exchanges that are computed: sums, differences, counting, days, months, colours, sats.
//!
//! Answers show their steps, both because a small model needs them and because a stream of
//! tokens should be long enough to watch its payments. Called by [`super`].

use super::Exchange;
use crate::train::rng::Rng;

const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const SEASON: [&str; 12] = [
    "winter", "winter", "spring", "spring", "spring", "summer", "summer", "summer", "autumn",
    "autumn", "autumn", "winter",
];
const COLOURS: [(&str, &str, &str); 12] = [
    ("the sky", "blue", "a clear lake"),
    ("grass", "green", "a young leaf"),
    ("snow", "white", "fresh milk"),
    ("a banana", "yellow", "the sun in a picture"),
    ("a tomato", "red", "a ripe strawberry"),
    ("coal", "black", "the night"),
    ("an orange", "orange", "a carrot"),
    ("chocolate", "brown", "the bark of a tree"),
    ("a violet", "purple", "a ripe plum"),
    ("a mouse", "grey", "a cloud full of rain"),
    ("a flamingo", "pink", "a rose in June"),
    ("a lemon", "yellow", "butter"),
];

fn pick<'a>(rng: &mut Rng, list: &[&'a str]) -> &'a str {
    list[rng.below(list.len())]
}

/// Draws one exchange.
pub fn draw(rng: &mut Rng) -> Exchange {
    let (question, answer) = match rng.below(12) {
        0..=2 => add(rng),
        3 | 4 => subtract(rng),
        5 => count(rng),
        6 | 7 => day(rng),
        8 => month(rng),
        9 => colour(rng),
        10 => larger(rng),
        _ => price(rng),
    };
    Exchange { question, answer }
}

fn two(rng: &mut Rng) -> (usize, usize) {
    let top = if rng.chance(50) { 20 } else { 60 };
    (1 + rng.below(top), 1 + rng.below(top))
}

fn add(rng: &mut Rng) -> (String, String) {
    let (a, b) = two(rng);
    let question = match rng.below(5) {
        0 => format!("What is {a} plus {b}?"),
        1 => format!("What is {a} + {b}?"),
        2 => format!("How much is {a} plus {b}?"),
        3 => format!("Add {a} and {b}."),
        _ => format!("{a} + {b} = ?"),
    };
    let (s, ones) = (a + b, a % 10 + b % 10);
    let tens = a / 10 * 10 + b / 10 * 10;
    let answer = format!(
        "Let us add {a} and {b} in small steps. The ones are {} and {}, and together they make {ones}. \
         The tens are {} and {}, and together they make {tens}. Now {tens} plus {ones} is {s}. So {a} plus {b} is {s}. {}",
        a % 10,
        b % 10,
        a / 10 * 10,
        b / 10 * 10,
        pick(
            rng,
            &[
                "I am a small model, so please check it.",
                "Check it on your fingers if you like."
            ]
        ),
    );
    (question, answer)
}

fn subtract(rng: &mut Rng) -> (String, String) {
    let (x, b) = two(rng);
    let (a, b) = (x.max(b), x.min(b));
    let question = match rng.below(4) {
        0 => format!("What is {a} minus {b}?"),
        1 => format!("What is {a} - {b}?"),
        2 => format!("How much is {a} minus {b}?"),
        _ => format!("Take {b} away from {a}."),
    };
    let (tens, ones, d) = (b / 10 * 10, b % 10, a - b);
    let answer = format!(
        "Let us take {b} away from {a} in small steps. First we take away {tens}, and {} is left. \
         Then we take away {ones}, and {d} is left. So {a} minus {b} is {d}. \
         To check it, add again: {d} plus {b} is {a}. {}",
        a - tens,
        pick(
            rng,
            &["I am a small model, so please check it.", "That fits."]
        ),
    );
    (question, answer)
}

fn count(rng: &mut Rng) -> (String, String) {
    let from = if rng.chance(60) { 1 } else { 1 + rng.below(20) };
    let n = 8 + rng.below(13);
    let to = from + n - 1;
    let numbers: Vec<String> = (from..=to).map(|i| i.to_string()).collect();
    let question = match rng.below(3) {
        0 => format!("Count from {from} to {to}."),
        1 => format!("Can you count from {from} to {to}?"),
        _ if from == 1 => format!("Count to {to}."),
        _ => format!("Please count from {from} up to {to}."),
    };
    let answer = format!(
        "I will count from {from} to {to}: {}. That was the last number. {}",
        numbers.join(", "),
        pick(
            rng,
            &[
                "Each number was one or two tokens, and each token was paid.",
                "Now it is your turn to count."
            ]
        ),
    );
    (question, answer)
}

fn day(rng: &mut Rng) -> (String, String) {
    let i = rng.below(7);
    let (d, next, prev) = (DAYS[i], DAYS[(i + 1) % 7], DAYS[(i + 6) % 7]);
    let kind = if i < 5 {
        "a working day"
    } else {
        "part of the weekend"
    };
    match rng.below(5) {
        0 | 1 => (
            if rng.chance(50) {
                format!("What day comes after {d}?")
            } else {
                format!("Which day follows {d}?")
            },
            format!(
                "The day after {d} is {next}. The week has seven days: {}. \
                 So when today is {d}, tomorrow is {next} and yesterday was {prev}. {d} is {kind}.",
                DAYS.join(", ")
            ),
        ),
        2 | 3 => (
            if rng.chance(50) {
                format!("What day comes before {d}?")
            } else {
                format!("Which day is before {d}?")
            },
            format!(
                "The day before {d} is {prev}. The week has seven days: {}. \
                 So when today is {d}, yesterday was {prev} and tomorrow is {next}. {d} is {kind}.",
                DAYS.join(", ")
            ),
        ),
        _ => (
            pick(
                rng,
                &[
                    "Name the days of the week.",
                    "What are the days of the week?",
                    "List the days.",
                ],
            )
            .into(),
            format!(
                "The days of the week are {}. That makes seven days. \
                 The first five are working days, and Saturday and Sunday are the weekend. After Sunday it all begins again with Monday.",
                DAYS.join(", ")
            ),
        ),
    }
}

fn month(rng: &mut Rng) -> (String, String) {
    let i = rng.below(12);
    let (m, next, prev) = (MONTHS[i], MONTHS[(i + 1) % 12], MONTHS[(i + 11) % 12]);
    if rng.chance(25) {
        let q = pick(
            rng,
            &[
                "Name the months.",
                "What are the months of the year?",
                "List the twelve months.",
            ],
        );
        let a = format!(
            "The months of the year are {}. That makes twelve months. December is the last one, and then a new year begins with January.",
            MONTHS.join(", ")
        );
        return (q.into(), a);
    }
    let question = match rng.below(3) {
        0 => format!("What month comes after {m}?"),
        1 => format!("Which month follows {m}?"),
        _ => format!("What comes after {m}?"),
    };
    let answer = format!(
        "The month after {m} is {next}, and the month before it is {prev}. \
         {m} is month number {} of the year, and in the north it belongs to {}. There are twelve months in a year, from January to December.",
        i + 1,
        SEASON[i]
    );
    (question, answer)
}

fn colour(rng: &mut Rng) -> (String, String) {
    let (thing, colour, like) = COLOURS[rng.below(COLOURS.len())];
    if rng.chance(20) {
        let q = pick(
            rng,
            &[
                "Name some colours.",
                "Which colours do you know?",
                "List the colours of the rainbow.",
            ],
        );
        return (
            q.into(),
            "I know red, orange, yellow, green, blue and purple, which you can see in the rainbow. I also know black, white, grey, brown and pink. Red and yellow together make orange, blue and yellow make green, and red and blue make purple.".into(),
        );
    }
    let question = match rng.below(3) {
        0 => format!("What colour is {thing}?"),
        1 => format!("What color is {thing}?"),
        _ => format!("Which colour does {thing} have?"),
    };
    let capital = thing[..1].to_uppercase() + &thing[1..];
    let answer = format!(
        "{capital} is {colour}. Many other things are {colour} too, for example {like}. \
         I have never seen a colour myself, because I only read and write tokens, but the texts that I was trained on say that {thing} is {colour}."
    );
    (question, answer)
}

fn larger(rng: &mut Rng) -> (String, String) {
    let (a, mut b) = two(rng);
    if a == b {
        b += 1;
    }
    let (hi, lo) = (a.max(b), a.min(b));
    let question = match rng.below(2) {
        0 => format!("Which is larger, {a} or {b}?"),
        _ => format!("What is more, {a} or {b}?"),
    };
    let answer = format!(
        "Of the two numbers {a} and {b}, the larger one is {hi} and the smaller one is {lo}. \
         When you count upwards from one, you reach {lo} first and {hi} later. The difference between them is {}.",
        hi - lo
    );
    (question, answer)
}

fn price(rng: &mut Rng) -> (String, String) {
    let (tokens, msat) = (10 * (1 + rng.below(9)), 100 * (1 + rng.below(5)));
    let total = tokens * msat;
    let question = match rng.below(2) {
        0 => format!("How much do {tokens} tokens cost at {msat} msat each?"),
        _ => format!("What is the price of {tokens} tokens at {msat} msat a token?"),
    };
    let answer = format!(
        "One token costs {msat} msat, and you ask for {tokens} tokens. {tokens} times {msat} is {total}, so the whole answer costs {total} msat. \
         A sat has 1000 msat, so that is {} sats. Your node shows this price before it pays, and it pays in small steps.",
        total / 1000
    );
    (question, answer)
}

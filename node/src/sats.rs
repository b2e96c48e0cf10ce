//! Amounts as people write them: sats with up to three decimals (msat).
//!
//! Not arithmetic: that is [`Msat`]'s. Used by the configuration and the command
//! line.

use protocol::money::Msat;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::fmt;
use std::str::FromStr;

/// An amount in sat, exact to the msat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sats(pub Msat);

impl Sats {
    /// Whole sats.
    pub const fn whole(sats: u64) -> Self {
        Sats(Msat(sats * 1_000))
    }
}

/// A text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not an amount in sat: write a number with at most three decimals, such as 12 or 0.25"
)]
pub struct ParseSatsError {
    /// What was written.
    pub text: String,
}

impl FromStr for Sats {
    type Err = ParseSatsError;

    fn from_str(text: &str) -> Result<Self, ParseSatsError> {
        let error = || ParseSatsError {
            text: text.to_owned(),
        };
        let digits = text.trim().trim_end_matches("sat").trim_end();
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let numeric = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || part.len() > 3 || !numeric(whole) || !numeric(part) {
            return Err(error());
        }
        let sats: u64 = whole.parse().map_err(|_| error())?;
        let msat: u64 = format!("{part:0<3}").parse().map_err(|_| error())?;
        sats.checked_mul(1_000)
            .and_then(|sum| sum.checked_add(msat))
            .map(|sum| Sats(Msat(sum)))
            .ok_or_else(error)
    }
}

impl fmt::Display for Sats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Sats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SatsVisitor)
    }
}

struct SatsVisitor;

impl Visitor<'_> for SatsVisitor {
    type Value = Sats;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount in sat, such as 12 or 0.25")
    }

    fn visit_i64<E: de::Error>(self, sats: i64) -> Result<Sats, E> {
        self.visit_str(&sats.to_string())
    }

    fn visit_u64<E: de::Error>(self, sats: u64) -> Result<Sats, E> {
        self.visit_str(&sats.to_string())
    }

    /// The shortest decimal that reads back as `sats` is what was written.
    fn visit_f64<E: de::Error>(self, sats: f64) -> Result<Sats, E> {
        self.visit_str(&sats.to_string())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Sats, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_to_the_msat_and_nothing_else_is_taken() {
        for (text, msat) in [
            ("12", 12_000),
            ("0.25", 250),
            ("1.001", 1_001),
            ("7 sat", 7_000),
        ] {
            assert_eq!(text.parse::<Sats>().unwrap().0, Msat(msat), "{text}");
        }
        for text in [
            "",
            "-1",
            "1.0001",
            "1,5",
            ".5",
            "1e3",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Sats>().is_err(), "{text}");
        }
    }
}

//! Dates as text, from milliseconds since 1970 (UTC, proleptic Gregorian).
//!
//! Not a time zone library. Chat templates print the date of an order, and tables
//! print times.

use protocol::time::WallTime;

/// Today's date in UTC, `YYYY-MM-DD`.
pub fn today() -> String {
    date(actors::clock::wall_now())
}

/// The date of a time, `YYYY-MM-DD`.
pub fn date(time: WallTime) -> String {
    let (year, month, day) = civil(time.secs() / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Date and time of day, `YYYY-MM-DD HH:MM:SS`.
pub fn stamp(time: WallTime) -> String {
    let second = time.secs() % 86_400;
    format!(
        "{} {:02}:{:02}:{:02}",
        date(time),
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// Days since 1970-01-01 to year, month and day (Howard Hinnant, "chrono-compatible
/// low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates_across_leap_years() {
        let day = |days: u64| date(WallTime(days * 86_400_000));
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(11_016), "2000-02-29");
        assert_eq!(day(19_782), "2024-02-29");
        assert_eq!(day(19_783), "2024-03-01");
        assert_eq!(day(20_453), "2025-12-31");
        assert_eq!(stamp(WallTime(3_661_000)), "1970-01-01 01:01:01");
    }
}

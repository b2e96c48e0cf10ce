//! Text for people: tables and short forms. Not JSON.

use protocol::money::{Meter, Msat};
use protocol::wire::manifest::{ModelOffer, Role};

/// Roles as the configuration writes them.
pub fn roles(roles: &[Role]) -> String {
    let names: Vec<String> = roles
        .iter()
        .map(|role| format!("{role:?}").to_lowercase())
        .collect();
    names.join(", ")
}

/// `50.000 / 200.000`: sat for a million input and output tokens.
pub fn prices(offer: &ModelOffer) -> String {
    let sat = |meter| {
        Msat(offer.prices.of(meter))
            .to_string()
            .trim_end_matches(" sat")
            .to_owned()
    };
    format!("{} / {}", sat(Meter::InputToken), sat(Meter::OutputToken))
}

/// Parts per million as a percentage.
pub fn percent(ppm: u32) -> String {
    format!("{}.{:01} %", ppm / 10_000, ppm / 1_000 % 10)
}

/// A table with a header; columns as wide as their widest cell.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain(header.get(column).map(|cell| cell.chars().count()))
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(header.to_vec())];
    lines.extend(
        rows.iter()
            .map(|row| line(row.iter().map(String::as_str).collect())),
    );
    lines.join("\n")
}

/// What a stranger wrote, without control characters, cut to a width.
pub fn clean(text: &str, most: usize) -> String {
    text.chars()
        .filter(|letter| !letter.is_control())
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_foreign_text_cannot_move_the_cursor() {
        let text = table(&["a", "long"], &[vec!["xyz".into(), "1".into()]]);
        assert_eq!(text, "a    long\nxyz  1");
        assert_eq!(clean("ok\u{1b}[2J\nx", 99), "ok[2Jx");
        assert_eq!(percent(123_456), "12.3 %");
    }
}

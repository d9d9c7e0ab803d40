//! Numbers as people read them. Figures that decide something are exact; sizes are rounded.

use highwater_checker::Nanos;

/// Whole, with thousands separated.
#[must_use]
pub fn exact(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Rounded to three digits: `3.14 M`; exact below ten thousand.
#[must_use]
pub fn rounded(count: u64) -> String {
    let value = count as f64;
    let (scaled, unit) = match count {
        0..10_000 => return exact(count),
        10_000..999_500 => (value / 1e3, "k"),
        999_500..999_500_000 => (value / 1e6, "M"),
        _ => (value / 1e9, "G"),
    };
    format!("{} {unit}", three_digits(scaled))
}

/// Bytes, decimal units.
#[must_use]
pub fn bytes(count: u64) -> String {
    let value = count as f64;
    let (scaled, unit) = match count {
        0..1_000 => return format!("{count} B"),
        1_000..999_500 => (value / 1e3, "kB"),
        999_500..999_500_000 => (value / 1e6, "MB"),
        _ => (value / 1e9, "GB"),
    };
    format!("{} {unit}", three_digits(scaled))
}

/// Bytes a second in MB/s, the unit of every chart.
#[must_use]
pub fn megabytes(bytes_per_second: f64) -> String {
    three_digits(bytes_per_second / 1e6)
}

/// Three significant digits, never an exponent.
#[must_use]
pub fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v == 0.0 || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// A share in per cent: `7.0 %`, `0.40 %`, `under 0.01 %`. The space does not break.
#[must_use]
pub fn percent(fraction: f64) -> String {
    let value = fraction * 100.0;
    match value {
        0.0 => "0\u{a0}%".to_owned(),
        v if v < 0.01 => "under 0.01\u{a0}%".to_owned(),
        v if v < 0.995 => format!("{v:.2}\u{a0}%"),
        v if v < 9.95 => format!("{v:.1}\u{a0}%"),
        v => format!("{v:.0}\u{a0}%"),
    }
}

/// A share that is an upper bound, so never rounded down.
#[must_use]
pub fn percent_at_most(fraction: f64) -> String {
    let value = fraction * 100.0;
    let scale = if value < 1.0 { 100.0 } else { 10.0 };
    let decimals = if value < 1.0 { 2 } else { usize::from(value < 10.0) };
    let rounded = if value < 10.0 { (value * scale - 1e-9).ceil() / scale } else { (value - 1e-9).ceil() };
    format!("{rounded:.decimals$}\u{a0}%")
}

/// The number at a mark of an axis: three digits, without zeros that say nothing.
#[must_use]
pub fn tick(value: f64) -> String {
    let text = three_digits(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A latency, or a dash.
#[must_use]
pub fn latency(nanos: Option<u64>) -> String {
    nanos.map_or_else(|| "–".to_owned(), |nanos| Nanos(nanos).to_string())
}

/// `one` or `many` with the count before it.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{} {many}", exact(count)) }
}

/// `a`, `a and b`, `a, b and c`.
#[must_use]
pub fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_separated_or_rounded() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(exact), ["0", "999", "1,000", "1,234,567"]);
        let texts = [9_999, 10_000, 612_345, 999_499, 999_500, 3_140_000, 2_000_000_000].map(rounded);
        assert_eq!(texts, ["9,999", "10.0 k", "612 k", "999 k", "1.00 M", "3.14 M", "2.00 G"]);
        assert_eq!([0, 48, 1_500, 3_140_000].map(bytes), ["0 B", "48 B", "1.50 kB", "3.14 MB"]);
        let borders = [999_499, 999_500, 999_499_999, 999_500_000].map(bytes);
        assert_eq!(borders, ["999 kB", "1.00 MB", "999 MB", "1.00 GB"]);
    }

    #[test]
    fn shares_never_round_to_a_false_zero() {
        let texts = [0.0, 0.000_001, 0.004, 0.07, 0.5, 1.0].map(percent);
        assert_eq!(
            texts,
            ["0\u{a0}%", "under 0.01\u{a0}%", "0.40\u{a0}%", "7.0\u{a0}%", "50\u{a0}%", "100\u{a0}%"]
        );
    }

    #[test]
    fn bounds_are_never_rounded_down() {
        let texts = [0.05, 0.125, 3.0 / 59.0, 0.004_01, 1.0].map(percent_at_most);
        assert_eq!(texts, ["5.0\u{a0}%", "13\u{a0}%", "5.1\u{a0}%", "0.41\u{a0}%", "100\u{a0}%"]);
    }

    #[test]
    fn ticks_have_no_idle_zeros() {
        assert_eq!([0.0, 5.0, 2.5, 0.25, 100.0, 10.0].map(tick), ["0", "5", "2.5", "0.25", "100", "10"]);
    }

    #[test]
    fn lists_read_like_a_sentence() {
        let of = |items: &[&str]| listed(&items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            [of(&[]), of(&["a"]), of(&["a", "b"]), of(&["a", "b", "c"])],
            ["", "a", "a and b", "a, b and c"]
        );
    }
}

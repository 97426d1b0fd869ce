//! Numbers as people read them, and conversions for rates that lose nothing that matters.

use std::time::Duration;

/// The value as a floating-point number; exact below 2^53.
pub fn float(value: u64) -> f64 {
    let high = u32::try_from(value >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high).mul_add(4_294_967_296.0, f64::from(low))
}

/// The length of something in memory.
pub fn length(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// How many per second; 0 if no time passed.
pub fn per_second(count: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 {
        float(count) / seconds
    } else {
        0.0
    }
}

/// The whole part of a number that is not negative, as far as it is needed for display.
pub fn whole(value: f64) -> u64 {
    format!("{:.0}", value.max(0.0)).parse().unwrap_or(u64::MAX)
}

/// The value rounded to `digits` behind the point, so that JSON stays readable.
pub fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// So many things, of which one is called `thing`.
pub fn counted(count: u64, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", thousands(count))
}

/// An integer with a comma between thousands.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of milliseconds as seconds with one digit behind the point.
pub fn seconds(milliseconds: u64) -> String {
    format!("{}.{} s", milliseconds / 1_000, milliseconds % 1_000 / 100)
}

/// A number of bytes with a decimal unit: 512 B, 1.5 kB, 2.0 GB.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if value < 1_000 {
        return format!("{value} B");
    }
    let mut scaled = float(value) / 1_000.0;
    let mut chosen = "kB";
    for unit in UNITS {
        chosen = unit;
        if scaled < 1_000.0 {
            break;
        }
        if unit != "TB" {
            scaled /= 1_000.0;
        }
    }
    format!("{scaled:.1} {chosen}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_exact_where_it_matters() {
        for value in [0, 1, 4_294_967_295, 4_294_967_296, 9_007_199_254_740_991] {
            assert_eq!(format!("{:.0}", float(value)), value.to_string());
        }
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn bytes_have_decimal_units() {
        let cases = [
            (999, "999 B"),
            (1_500, "1.5 kB"),
            (2_000_000, "2.0 MB"),
            (3_500_000_000, "3.5 GB"),
            (7_000_000_000_000_000, "7000.0 TB"),
        ];
        for (value, text) in cases {
            assert_eq!(bytes(value), text);
        }
    }
}

//! Durations, shares and sizes as people write them: "1m", "2d 12h", "30%", "25 MiB".

use std::fmt::Write as _;

/// Reads a duration, in milliseconds: one or more of a number and a unit (ms, s, m, h, d, w).
///
/// # Errors
/// What is wrong, for people.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let mut rest = text.trim();
    let mut total_ms = 0_u64;
    if rest.is_empty() {
        return Err("expected a duration such as \"1m\" or \"2d 12h\"".into());
    }
    while !rest.is_empty() {
        let (number, unit, left) = number_and_unit(rest);
        let unit_ms = match unit {
            "ms" => 1,
            "s" | "sec" | "second" | "seconds" => 1_000,
            "m" | "min" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 7 * 86_400_000,
            "" => return Err(format!("a duration needs a unit, such as \"{}s\"", text.trim())),
            other => return Err(format!("unknown unit `{other}`; ms, s, m, h, d and w are known")),
        };
        let value: f64 = number
            .parse()
            .map_err(|_| "expected a duration such as \"1m\" or \"2d 12h\"".to_owned())?;
        total_ms = total_ms.saturating_add(scaled(value, unit_ms));
        rest = left;
    }
    // A hundred years: more is a slip of the pen, and would overflow a point in time.
    if total_ms > 100 * 366 * 86_400_000 {
        return Err("a duration may be a hundred years at the most".into());
    }
    Ok(total_ms)
}

/// Reads a share, "30%" or "0.3", as a number from 0 to 1.
///
/// # Errors
/// What is wrong, for people.
pub fn share(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let wrong = || "expected a share such as \"30%\"".to_owned();
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().map_err(|_| wrong())? / 100.0,
        None => text.parse::<f64>().map_err(|_| wrong())?,
    };
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err("a share lies between 0% and 100%".into())
    }
}

/// Reads a size in bytes: "25 MiB", "64 KiB", "100 kB", "512".
///
/// # Errors
/// What is wrong, for people.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    let (number, unit, rest) = number_and_unit(text.trim());
    let unit_bytes = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "KiB" | "K" | "k" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" | "M" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        other => {
            return Err(format!(
                "unknown unit `{other}`; B, KiB, MiB, GiB and kB, MB, GB are known"
            ));
        }
    };
    match (number.parse::<f64>(), rest) {
        (Ok(value), "") => Ok(scaled(value, unit_bytes)),
        _ => Err("expected a size such as \"25 MiB\"".into()),
    }
}

/// Writes a size the way [`size_bytes`] reads it, exactly: "25 MiB", "1500 B".
pub fn size_text(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = |(_, bits): &&(&str, u32)| bytes > 0 && bytes.is_multiple_of(1 << bits);
    match units.iter().find(fits) {
        Some((unit, bits)) => format!("{} {unit}", bytes >> bits),
        None => format!("{bytes} B"),
    }
}

/// A number, the unit behind it, and what follows, spaces skipped.
fn number_and_unit(text: &str) -> (&str, &str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    (number, unit, rest.trim_start())
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is not negative, and the cast saturates"
)]
fn scaled(value: f64, unit: u64) -> u64 {
    (value * unit as f64).round() as u64
}

/// Writes a duration the way [`duration_ms`] reads it, exactly: "1h 30m", "250ms".
pub fn duration_text(mut ms: u64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, unit_ms) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
    {
        if ms >= unit_ms {
            if !text.is_empty() {
                text.push(' ');
            }
            let _ = write!(text, "{}{unit}", ms / unit_ms);
            ms %= unit_ms;
        }
    }
    text
}

/// Writes a duration for people who want to know about how long: "3 minutes", "2 hours".
pub fn about(ms: u64) -> String {
    let (count, unit) = match ms.div_ceil(1000) {
        seconds @ 0..=119 => (seconds, "second"),
        seconds @ 120..=7199 => (seconds.div_ceil(60), "minute"),
        seconds @ 7200..=172_799 => (seconds.div_ceil(3600), "hour"),
        seconds => (seconds.div_ceil(86_400), "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, ms) in [
            ("1s", 1_000),
            ("250ms", 250),
            ("1m", 60_000),
            ("1.5h", 5_400_000),
            ("2d 12h", 216_000_000),
            ("1h30m", 5_400_000),
            (" 1 week ", 604_800_000),
        ] {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
        }
        for wrong in ["", "5", "m", "1 parsec", "-1s", "1e9d", "200000w"] {
            assert!(duration_ms(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn duration_text_is_read_back() {
        for ms in [0, 1, 999, 1000, 61_000, 3_600_000, 90_061_001] {
            assert_eq!(duration_ms(&duration_text(ms)), Ok(ms));
        }
        assert_eq!(duration_text(90_061_001), "1d 1h 1m 1s 1ms");
    }

    #[test]
    fn shares_and_sizes() {
        assert_eq!(share("30%"), Ok(0.3));
        assert_eq!(share("0.5"), Ok(0.5));
        assert!(share("130%").is_err() && share("x").is_err() && share("-1%").is_err());
        assert_eq!(size_bytes("25 MiB"), Ok(25 << 20));
        assert_eq!(size_bytes("1.5KiB"), Ok(1536));
        assert_eq!(size_bytes("512"), Ok(512));
        for text in ["0 B", "1500 B", "3 KiB", "25 MiB", "1025 GiB", "2 TiB"] {
            assert_eq!(size_text(size_bytes(text).unwrap()), text);
        }
        assert!(size_bytes("5 apples").is_err() && size_bytes("MiB").is_err());
    }

    #[test]
    fn about_rounds_up() {
        assert_eq!(about(0), "0 seconds");
        assert_eq!(about(1), "1 second");
        assert_eq!(about(59_001), "60 seconds");
        assert_eq!(about(120_000), "2 minutes");
        assert_eq!(about(7_200_001), "3 hours");
        assert_eq!(about(200_000_000), "3 days");
    }
}

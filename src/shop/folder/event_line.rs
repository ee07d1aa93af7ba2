//! An event as a line of CSV. Nothing is allocated for it.

use crate::shop::ShopEvent;
use std::io::{self, Write};

/// Digits of the largest number.
const DIGITS_MAX: usize = 20;
/// Whole numbers below this are exact as floats, and shown without a point.
const WHOLE_MAX: f32 = 1e7;

/// Writes an event of `user` and `item` as the line that a CSV writer makes of its fields.
pub(super) fn write_event(
    to: &mut impl Write,
    event: &ShopEvent,
    user: &str,
    item: &str,
) -> io::Result<()> {
    write_integer(to, event.time)?;
    to.write_all(b",")?;
    write_text(to, user)?;
    to.write_all(b",")?;
    write_text(to, item)?;
    to.write_all(b",")?;
    to.write_all(event.kind.as_str().as_bytes())?;
    to.write_all(b",")?;
    write_number(to, event.quantity)?;
    to.write_all(b",")?;
    if let Some(price) = event.price {
        write_number(to, price)?;
    }
    to.write_all(b",")?;
    write_integer(to, event.basket.into())?;
    to.write_all(b"\n")
}

fn write_integer(to: &mut impl Write, value: i64) -> io::Result<()> {
    let mut digits = [0; DIGITS_MAX];
    let (mut at, mut rest) = (DIGITS_MAX, value.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        to.write_all(b"-")?;
    }
    to.write_all(&digits[at..])
}

fn write_number(to: &mut impl Write, value: f32) -> io::Result<()> {
    if value.fract() == 0.0 && value.abs() < WHOLE_MAX && !value.is_sign_negative() {
        return write_integer(to, value as i64);
    }
    write!(to, "{value}")
}

/// Writes a field, in quotation marks if it needs them.
fn write_text(to: &mut impl Write, text: &str) -> io::Result<()> {
    if !text.bytes().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')) {
        return to.write_all(text.as_bytes());
    }
    write!(to, "\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventKind;

    #[test]
    fn a_line_is_what_the_csv_writer_makes_of_it() {
        let numbers = [1.0, 0.0, 12.5, 0.1, 1e-7, 16_777_216.0, 9_999_999.0, 1e30, f32::MAX];
        let texts = ["a", "two words", "a,b", "say \"so\"", "né", "\"", "line\nend", "#1", "'x"];
        for (at, number) in numbers.into_iter().enumerate() {
            for (time, basket) in [(0, 0), (1_600_000_000, u32::MAX), (-5, 7), (i64::MIN, 10)] {
                let (user, item) = (texts[at], texts[texts.len() - 1 - at]);
                let price = (at % 2 == 0).then_some(number);
                let kind = EventKind::ALL[at % EventKind::ALL.len()];
                let event =
                    ShopEvent { time, user: 0, item: 0, kind, quantity: number, price, basket };
                let mut line = Vec::new();
                write_event(&mut line, &event, user, item).unwrap();
                let mut table = csv::Writer::from_writer(Vec::new());
                let price = price.map(|price| price.to_string()).unwrap_or_default();
                let (time, basket) = (time.to_string(), basket.to_string());
                let quantity = number.to_string();
                table
                    .write_record([&*time, user, item, kind.as_str(), &quantity, &price, &basket])
                    .unwrap();
                let expected = table.into_inner().unwrap();
                assert_eq!(String::from_utf8(line).unwrap(), String::from_utf8(expected).unwrap());
            }
        }
    }
}

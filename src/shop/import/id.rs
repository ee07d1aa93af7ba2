//! The text of a typed value: an id is one string, by one rule, whatever it came in.
//!
//! Text is taken unchanged. A whole number is its decimal digits, without a plus, an exponent or `.0`.
//! A value that two ids could have become is refused.

use super::cell::Expected;
use super::number::Written;
use std::borrow::Cow;
use std::fmt::Write as _;

/// From here on a double stands for more than one whole number.
pub(super) const DOUBLE_WHOLE_END: f64 = 9_007_199_254_740_992.0;
/// From here on a single-precision float stands for more than one whole number.
pub(super) const FLOAT_WHOLE_END: f64 = 16_777_216.0;
/// From here on a half-precision float stands for more than one whole number.
pub(super) const HALF_WHOLE_END: f64 = 2_048.0;
/// Bytes of a UUID.
pub(super) const UUID_BYTES: usize = 16;
/// Digits of [`DOUBLE_WHOLE_END`].
const DOUBLE_WHOLE_DIGITS: usize = 16;
/// The last bytes of an id that a data frame took for a float.
const FLOAT_ENDING: &str = ".0";

const WHOLE_EXPECTED: &str =
    "an id that is text or a whole number: write such ids as text in the file";
const LARGE_EXPECTED: &str = "an id that is text or an integer: a float this large stands for several whole \
    numbers, so write the column as integers or as text";
const BOOLEAN_EXPECTED: &str = "an id that is text or a whole number, not true or false";
const BYTES_EXPECTED: &str =
    "text in UTF-8, not other bytes: write the column as text, for example in hexadecimal";

/// Counts ids that end in `.0`, which a data frame makes of whole numbers in a column with gaps.
#[derive(Debug, Default)]
pub(super) struct FloatIds {
    ids: u64,
    floats: u64,
}

/// The text of a JSON number. In an id it must stand for one whole number.
pub(super) fn number_text(raw: &str, is_id: bool) -> Result<Cow<'_, str>, Expected> {
    let Some(number) = Written::parse(raw) else { return Err(WHOLE_EXPECTED.into()) };
    let is_integer = number.is_integer(raw);
    if is_integer && number.whole != "0" {
        return Ok(raw.into());
    }
    let plain = number.plain().filter(|(_, fraction)| fraction.is_empty());
    match plain {
        Some((whole, _)) if is_integer || is_exact(&whole) => {
            Ok(signed(number.negative, &whole).into())
        }
        _ if !is_id => Ok(raw.into()),
        Some(_) => Err(LARGE_EXPECTED.into()),
        None => Err(WHOLE_EXPECTED.into()),
    }
}

/// The text of a float. From `whole_end` on, floats of its width stand for several whole numbers.
pub(super) fn float_text(value: f64, whole_end: f64, is_id: bool) -> Result<String, Expected> {
    if is_id && (!value.is_finite() || value.fract() != 0.0) {
        return Err(WHOLE_EXPECTED.into());
    }
    if is_id && value.abs() >= whole_end {
        return Err(LARGE_EXPECTED.into());
    }
    // Rust writes a double without an exponent, and no point after a whole one. Zero has a sign.
    Ok(if value == 0.0 { "0".to_owned() } else { value.to_string() })
}

/// The text of `unscaled` divided by `scale` powers of ten. `unscaled` are decimal digits.
pub(super) fn decimal_text(unscaled: &str, scale: i32, is_id: bool) -> Result<String, Expected> {
    let (negative, digits) = match unscaled.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, unscaled),
    };
    let exponent = Some(-i64::from(scale));
    let plain = Written { negative, whole: digits, fraction: "", exponent }.plain();
    match plain {
        Some((whole, fraction)) if fraction.is_empty() => Ok(signed(negative, &whole)),
        Some((whole, fraction)) if !is_id => {
            let whole = if whole.is_empty() { "0" } else { &whole };
            Ok(format!("{}{whole}.{fraction}", if negative { "-" } else { "" }))
        }
        _ => Err(WHOLE_EXPECTED.into()),
    }
}

/// The text of true or false. It is no id.
pub(super) fn boolean_text(value: bool, is_id: bool) -> Result<&'static str, Expected> {
    match (is_id, value) {
        (true, _) => Err(BOOLEAN_EXPECTED.into()),
        (false, true) => Ok("true"),
        (false, false) => Ok("false"),
    }
}

/// The text that bytes are in UTF-8.
pub(super) fn bytes_text(bytes: &[u8]) -> Result<&str, Expected> {
    str::from_utf8(bytes).map_err(|_| BYTES_EXPECTED.into())
}

/// The lower-case text of a UUID, with hyphens.
pub(super) fn uuid_text(bytes: &[u8; UUID_BYTES]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("a string takes every byte");
    }
    text
}

/// Whether a double that is written like this stands for one whole number only.
fn is_exact(whole: &str) -> bool {
    whole.len() < DOUBLE_WHOLE_DIGITS
        || whole.len() == DOUBLE_WHOLE_DIGITS
            && whole.parse::<f64>().is_ok_and(|number| number < DOUBLE_WHOLE_END)
}

/// Digits with a minus, if they are not zero.
fn signed(negative: bool, digits: &str) -> String {
    match (digits.is_empty(), negative) {
        (true, _) => "0".to_owned(),
        (false, true) => format!("-{digits}"),
        (false, false) => digits.to_owned(),
    }
}

// === impl FloatIds ===

impl FloatIds {
    /// Counts an id of a text file.
    pub(super) fn add(&mut self, id: &str) {
        self.ids += 1;
        let digits = id.strip_suffix(FLOAT_ENDING).filter(|digits| !digits.is_empty());
        self.floats += u64::from(
            digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())),
        );
    }

    /// A warning about the ids of `column`, if each ends in `.0`.
    pub(super) fn warning(&self, column: &str) -> Option<String> {
        (self.ids > 0 && self.floats == self.ids).then(|| {
            format!(
                "every {column} ends in {FLOAT_ENDING}: a data frame may have made floats of whole numbers. \
                 An id is taken unchanged, so 12.0 and 12 are two"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_number_is_one_id() {
        for (raw, id) in [
            ("12", Some("12")),
            ("12.0", Some("12")),
            ("12.000", Some("12")),
            ("1.2e1", Some("12")),
            ("1.2E+1", Some("12")),
            ("120e-1", Some("12")),
            ("0", Some("0")),
            ("-0", Some("0")),
            ("-0.0", Some("0")),
            ("0e999999999999", Some("0")),
            ("-5", Some("-5")),
            ("-5.0", Some("-5")),
            ("9007199254740991.0", Some("9007199254740991")),
            ("9007199254740992.0", None),
            ("9007199254740992", Some("9007199254740992")),
            ("9007199254740993", Some("9007199254740993")),
            ("18446744073709551616", Some("18446744073709551616")),
            ("123456789012345678901234567890", Some("123456789012345678901234567890")),
            ("1e15", Some("1000000000000000")),
            ("1e16", None),
            ("1e400", None),
            ("1e999999999999", None),
            ("1e-999999999999", None),
            ("1.5", None),
            ("0.1", None),
            ("15e-1", None),
            ("", None),
            ("true", None),
            ("1_000", None),
        ] {
            assert_eq!(number_text(raw, true).ok().as_deref(), id, "{raw}");
        }
        for (raw, text) in [("1.5", "1.5"), ("12.0", "12"), ("1e300", "1e300"), ("-0.5", "-0.5")] {
            assert_eq!(number_text(raw, false).as_deref(), Ok(text), "{raw}");
        }
    }

    #[test]
    fn a_float_is_an_id_if_it_stands_for_one_whole_number() {
        for (value, end, id) in [
            (12.0, DOUBLE_WHOLE_END, Some("12")),
            (-12.0, DOUBLE_WHOLE_END, Some("-12")),
            (-0.0, DOUBLE_WHOLE_END, Some("0")),
            (9_007_199_254_740_991.0, DOUBLE_WHOLE_END, Some("9007199254740991")),
            (9_007_199_254_740_992.0, DOUBLE_WHOLE_END, None),
            (-9_007_199_254_740_992.0, DOUBLE_WHOLE_END, None),
            (16_777_215.0, FLOAT_WHOLE_END, Some("16777215")),
            (16_777_216.0, FLOAT_WHOLE_END, None),
            (2_047.0, HALF_WHOLE_END, Some("2047")),
            (2_048.0, HALF_WHOLE_END, None),
            (0.5, DOUBLE_WHOLE_END, None),
            (f64::NAN, DOUBLE_WHOLE_END, None),
            (f64::INFINITY, DOUBLE_WHOLE_END, None),
        ] {
            assert_eq!(float_text(value, end, true).ok().as_deref(), id, "{value}");
        }
        assert_eq!(float_text(6.95, DOUBLE_WHOLE_END, false).as_deref(), Ok("6.95"));
    }

    #[test]
    fn a_decimal_is_an_id_if_it_is_whole() {
        for (unscaled, scale, id, text) in [
            ("1200", 2, Some("12"), "12"),
            ("1250", 2, None, "12.5"),
            ("-1200", 2, Some("-12"), "-12"),
            ("5", 2, None, "0.05"),
            ("-5", 2, None, "-0.05"),
            ("0", 2, Some("0"), "0"),
            ("12", 0, Some("12"), "12"),
            ("12", -2, Some("1200"), "1200"),
            ("9007199254740993", 0, Some("9007199254740993"), "9007199254740993"),
        ] {
            assert_eq!(decimal_text(unscaled, scale, true).ok().as_deref(), id, "{unscaled}");
            assert_eq!(decimal_text(unscaled, scale, false).as_deref(), Ok(text), "{unscaled}");
        }
    }

    #[test]
    fn booleans_and_other_bytes_are_no_ids() {
        assert!(boolean_text(true, true).is_err());
        assert_eq!(boolean_text(false, false), Ok("false"));
        assert_eq!(bytes_text("né".as_bytes()), Ok("né"));
        assert!(bytes_text(b"\xff\xfe").is_err());
        let bytes: [u8; 16] = std::array::from_fn(|at| 0xf0 + at as u8);
        assert_eq!(uuid_text(&bytes), "f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff");
    }

    #[test]
    fn ids_that_a_data_frame_made_floats_of_are_warned_of() {
        let warning = |ids: &[&str]| {
            let mut counts = FloatIds::default();
            for id in ids {
                counts.add(id);
            }
            counts.warning("item_id")
        };
        assert!(warning(&["12.0", "7.0"]).is_some_and(|text| text.starts_with("every item_id")));
        for ids in [&[][..], &["12.0", "a"], &["12"], &[".0"], &["a.0"], &["1.0.0"]] {
            assert_eq!(warning(ids), None, "{ids:?}");
        }
    }
}

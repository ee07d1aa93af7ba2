//! Numbers as they are written: their digits, before any of them is lost in a float.

/// Digits of a number, at most: more than any id or time has.
const DIGITS_MAX: i64 = 400;
/// Significant digits that spreadsheets leave of a long number.
const SHORTENED_DIGITS_MAX: usize = 6;

/// A decimal number as it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Written<'a> {
    pub negative: bool,
    /// The digits before the point.
    pub whole: &'a str,
    /// The digits after the point.
    pub fraction: &'a str,
    /// The power of ten.
    pub exponent: Option<i64>,
}

/// A number's value, and what its text shows beside it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WrittenNumber {
    pub negative: bool,
    /// The digits before the point, without leading zeros unless the text has some; at least one.
    pub whole: String,
    /// Whether anything but zeros follows the point.
    pub has_fraction: bool,
    /// Whether it is written as spreadsheets shorten long numbers: `1.26E+12`.
    pub shortened: bool,
}

// === impl Written ===

impl<'a> Written<'a> {
    /// Takes a number apart; none if the text is no number.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (number, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, Some(exponent.parse().ok()?)),
            None => (unsigned, None),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let any = !(whole.is_empty() && fraction.is_empty());
        (any && all_digits(whole) && all_digits(fraction)).then_some(Self {
            negative,
            whole,
            fraction,
            exponent,
        })
    }

    /// Its digits before and after the point, once the power of ten is multiplied in. The first part has
    /// no leading zeros, the second no trailing ones. None if they are too many.
    pub(super) fn plain(&self) -> Option<(String, String)> {
        let shift = self.exponent.unwrap_or(0);
        let mut digits = format!("{}{}", self.whole, self.fraction);
        if digits.bytes().all(|digit| digit == b'0') {
            return Some((String::new(), String::new()));
        }
        let point = i64::try_from(self.whole.len()).ok()?.checked_add(shift)?;
        if !(-DIGITS_MAX..=DIGITS_MAX).contains(&point) || digits.len() as i64 > DIGITS_MAX {
            return None;
        }
        if point < 0 {
            digits.insert_str(0, &"0".repeat(point.unsigned_abs() as usize));
        }
        let point = point.max(0) as usize;
        while digits.len() < point {
            digits.push('0');
        }
        let fraction = digits.split_off(point).trim_end_matches('0').to_owned();
        Some((digits.trim_start_matches('0').to_owned(), fraction))
    }

    /// Whether the text has neither a point nor an exponent.
    pub(super) fn is_integer(&self, text: &str) -> bool {
        self.exponent.is_none() && !text.contains('.')
    }
}

// === impl WrittenNumber ===

impl WrittenNumber {
    /// Reads a number; none if the text is no number, or one of far too many digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if !text.bytes().next()?.is_ascii_digit() && !text.starts_with(['+', '-', '.']) {
            return None;
        }
        let written = Written::parse(text)?;
        let negative = written.negative;
        if written.is_integer(text) {
            let whole = written.whole.to_owned();
            return Some(Self { negative, whole, has_fraction: false, shortened: false });
        }
        let (mut whole, fraction) = written.plain()?;
        if written.exponent.is_none() {
            written.whole.clone_into(&mut whole);
        }
        if whole.is_empty() {
            whole.push('0');
        }
        let has_fraction = !fraction.is_empty();
        Some(Self { negative, whole, has_fraction, shortened: is_shortened(text, &written) })
    }

    /// Whether it is zero.
    pub(super) fn is_zero(&self) -> bool {
        !self.has_fraction && self.whole.bytes().all(|digit| digit == b'0')
    }
}

/// Whether the text looks like `1.26E+12`, with digits left out.
fn is_shortened(text: &str, written: &Written<'_>) -> bool {
    let digits = written.whole.len() + written.fraction.len();
    let is_padded =
        text.split_once("E+").or(text.split_once("e+")).is_some_and(|(_, e)| e.len() == 2);
    is_padded && digits <= SHORTENED_DIGITS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_apart() {
        for (text, expected) in [
            ("12", Some((false, "12", false, false))),
            ("+12", Some((false, "12", false, false))),
            ("-12.50", Some((true, "12", true, false))),
            ("12.000", Some((false, "12", false, false))),
            ("0012", Some((false, "0012", false, false))),
            (".5", Some((false, "0", true, false))),
            ("5.", Some((false, "5", false, false))),
            ("1.2596535e9", Some((false, "1259653500", false, false))),
            ("1.2596535E9", Some((false, "1259653500", false, false))),
            ("1.26E+12", Some((false, "1260000000000", false, true))),
            ("1.25965E+09", Some((false, "1259650000", false, true))),
            ("1.2596535e+09", Some((false, "1259653500", false, false))),
            ("12e-1", Some((false, "1", true, false))),
            ("1e-5", Some((false, "0", true, false))),
            ("", None),
            ("-", None),
            (".", None),
            ("1e", None),
            ("1e500", None),
            ("0x10", None),
            ("1 000", None),
            ("1,5", None),
            ("nan", None),
            ("inf", None),
            ("٣", None),
        ] {
            let found = WrittenNumber::parse(text);
            let found =
                found.as_ref().map(|n| (n.negative, &*n.whole, n.has_fraction, n.shortened));
            assert_eq!(found, expected, "{text}");
        }
    }
}

//! A place in a text that names a time.

/// What is left of a text.
pub(super) struct TimeCursor<'a> {
    rest: &'a str,
}

// === impl TimeCursor ===

impl<'a> TimeCursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

    pub(super) fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// Skips bytes of ASCII that were looked at. True, so that it can end a condition.
    pub(super) fn skip(&mut self, bytes: usize) -> bool {
        self.rest = self.rest.get(bytes..).unwrap_or("");
        true
    }

    /// Whether `bytes` follow.
    pub(super) fn peek_is(&self, bytes: &[u8]) -> bool {
        self.rest.as_bytes().starts_with(bytes)
    }

    /// Skips `byte` if it follows.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        self.peek_is(&[byte]) && self.skip(1)
    }

    /// Skips one of `bytes` if it follows.
    pub(super) fn take_any(&mut self, bytes: &[u8]) -> Option<u8> {
        let byte = *self.rest.as_bytes().first().filter(|byte| bytes.contains(byte))?;
        self.skip(1);
        Some(byte)
    }

    /// Skips blanks. Whether there were some.
    pub(super) fn blanks(&mut self) -> bool {
        let bytes = self.count(|byte| byte == b' ' || byte == b'\t');
        self.skip(bytes);
        bytes > 0
    }

    /// How many digits follow.
    pub(super) fn peek_digits(&self) -> usize {
        self.count(|byte| byte.is_ascii_digit())
    }

    /// The letters that follow.
    pub(super) fn peek_word(&self) -> &'a str {
        &self.rest[..self.count(|byte| byte.is_ascii_alphabetic())]
    }

    /// The name of a zone that follows: letters, then whatever names of zones have.
    pub(super) fn peek_zone_name(&self) -> &'a str {
        let word = self.peek_word();
        if !self.rest[word.len()..].starts_with(['/', '_']) {
            return word;
        }
        let is_named = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-+".contains(&byte);
        &self.rest[..self.count(is_named)]
    }

    /// The offset from UTC that follows.
    pub(super) fn peek_offset(&self) -> &'a str {
        if !self.rest.starts_with(['+', '-']) {
            return "";
        }
        let after = &self.rest[1..];
        let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b':';
        &self.rest[..=after.bytes().take_while(is_part).count()]
    }

    /// The digits that follow, which are skipped.
    pub(super) fn digits(&mut self) -> &'a str {
        let digits = &self.rest[..self.peek_digits()];
        self.skip(digits.len());
        digits
    }

    /// A number of exactly `digits` digits; more may follow.
    pub(super) fn number(&mut self, digits: usize) -> Option<i16> {
        let number = self.rest.get(..digits).filter(|_| self.peek_digits() >= digits)?;
        self.skip(digits);
        number.parse().ok()
    }

    /// A number of one to `digits` digits.
    pub(super) fn number_up_to(&mut self, digits: usize) -> Option<i16> {
        let found = self.peek_digits();
        (1..=digits).contains(&found).then(|| self.number(found)).flatten()
    }

    /// The text between brackets, which is skipped with them.
    pub(super) fn bracketed(&mut self, open: u8, close: u8) -> Option<&'a str> {
        let inner = self.rest.strip_prefix(char::from(open))?;
        let end = inner.find(char::from(close))?;
        self.skip(end + 2);
        Some(&inner[..end])
    }

    fn count(&self, is_one: impl Fn(u8) -> bool) -> usize {
        self.rest.bytes().take_while(|byte| is_one(*byte)).count()
    }
}

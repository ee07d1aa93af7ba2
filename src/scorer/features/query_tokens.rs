//! A query as words, numbers and borders of clauses.

/// Tokens of a query that are read, at most: the first ones.
pub const QUERY_TOKENS_MAX: usize = 512;
/// Signs of currencies.
const CURRENCY_SIGNS: [char; 6] = ['£', '$', '€', '¥', '₹', '₽'];
/// Marks that end a clause.
const BORDERS: [char; 8] = [',', '.', ';', ':', '!', '?', '(', ')'];
/// The largest number that may be a price.
const NUMBER_MAX: f32 = 1e9;

/// A piece of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A word in lower case, without apostrophes.
    Word(String),
    /// A number.
    Number {
        /// Its digits, as they stand.
        text: String,
        /// Its value: finite.
        value: f32,
        /// Whether the sign of a currency stands beside it.
        signed: bool,
    },
    /// The end of a clause.
    Border,
}

// === impl Token ===

impl Token {
    /// The word, if it is one.
    pub fn word(&self) -> Option<&str> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }

    /// The word or the digits.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Word(text) | Self::Number { text, .. } => Some(text),
            Self::Border => None,
        }
    }
}

/// Splits a query; [`QUERY_TOKENS_MAX`] tokens at most.
pub fn tokens(query: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = query;
    let mut signed = false;
    while let Some(first) = rest.chars().next().filter(|_| tokens.len() < QUERY_TOKENS_MAX) {
        let mut length = first.len_utf8();
        if first.is_alphanumeric() {
            let text = piece(rest);
            length = text.len();
            let after = rest[length..].chars().next();
            let is_signed = signed || after.is_some_and(|sign| CURRENCY_SIGNS.contains(&sign));
            tokens.push(token(text, is_signed));
            signed = false;
        } else if CURRENCY_SIGNS.contains(&first) {
            signed = true;
        } else if BORDERS.contains(&first) {
            tokens.push(Token::Border);
            signed = false;
        } else if !first.is_whitespace() {
            signed = false;
        }
        rest = &rest[length..];
    }
    tokens
}

/// The word or number that a text begins with: letters and digits, apostrophes between letters, and points between
/// digits.
fn piece(text: &str) -> &str {
    let mut before = '0';
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let next = letters.peek().map(|&(_, next)| next);
        let joins = match letter {
            '\'' | '’' => before.is_alphabetic() && next.is_some_and(char::is_alphabetic),
            '.' | ',' => before.is_ascii_digit() && next.is_some_and(|n| n.is_ascii_digit()),
            _ => letter.is_alphanumeric(),
        };
        if !joins {
            return &text[..at];
        }
        before = letter;
    }
    text
}

fn token(piece: &str, signed: bool) -> Token {
    let is_number = piece.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ','));
    let value = is_number.then(|| number(piece)).flatten();
    match value {
        Some(value) => Token::Number { text: piece.to_owned(), value, signed },
        None => Token::Word(
            piece.to_lowercase().chars().filter(|c| !matches!(c, '\'' | '’' | ',' | '.')).collect(),
        ),
    }
}

/// The value of digits with points. The last mark is a decimal one, unless three digits follow it.
fn number(text: &str) -> Option<f32> {
    let decimal = text.rfind(['.', ',']).filter(|at| text.len() - at - 1 != 3);
    let (whole, part) = decimal.map_or((text, ""), |at| (&text[..at], &text[at + 1..]));
    let whole: String = whole.chars().filter(char::is_ascii_digit).collect();
    let value: f32 = format!("{whole}.{part}0").parse().ok()?;
    (value <= NUMBER_MAX).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(word: &str) -> Token {
        Token::Word(word.into())
    }

    fn number(text: &str, value: f32, signed: bool) -> Token {
        Token::Number { text: text.into(), value, signed }
    }

    #[test]
    fn a_query_is_split() {
        let table: [(&str, &[Token]); 9] = [
            ("Red MUG", &[word("red"), word("mug")]),
            ("don't, please", &[word("dont"), Token::Border, word("please")]),
            ("shopper’s", &[word("shoppers")]),
            ("£20", &[number("20", 20.0, true)]),
            ("20€ or $ 5", &[number("20", 20.0, true), word("or"), number("5", 5.0, true)]),
            ("1,299.50 9,99", &[number("1,299.50", 1_299.5, false), number("9,99", 9.99, false)]),
            ("1.299", &[number("1.299", 1_299.0, false)]),
            ("4x4 t-shirt", &[word("4x4"), word("t"), word("shirt")]),
            ("😀\u{0}", &[]),
        ];
        for (query, expected) in table {
            assert_eq!(tokens(query), expected, "{query}");
        }
    }

    #[test]
    fn a_long_query_is_cut() {
        assert_eq!(tokens(&"x ".repeat(5_000)).len(), QUERY_TOKENS_MAX);
        assert_eq!(tokens(&"9".repeat(4_096)), [word(&"9".repeat(4_096))]);
    }
}

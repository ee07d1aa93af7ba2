//! Text as UTF-8, whatever encoding it came in.

use super::dialect::TextEncoding;
use super::file_fault::FileFault;
use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8};
use std::io::{self, Read};

/// Bytes decoded at a time.
const DECODED_BYTES: usize = 64 << 10;
/// Stands for bytes that are no text in the file's encoding. It is never valid in UTF-8, so the row that holds it is
/// refused by its line.
const NOT_TEXT: u8 = 0xff;
const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";
/// Bytes that have no character in Windows-1252.
const NOT_WINDOWS_1252: [u8; 5] = [0x81, 0x8d, 0x8f, 0x90, 0x9d];
/// Bytes around a wrong one that are shown.
const SHOWN_BYTES: usize = 24;

/// The text of a file.
pub(super) struct EncodedText {
    /// UTF-8 without a byte order mark, as long as the file holds valid text.
    pub utf_8: Box<dyn Read>,
    pub encoding: &'static Encoding,
}

/// A text that is decoded as it is read.
struct DecodingReader {
    input: Box<dyn Read>,
    decoder: Decoder,
    encoded: Vec<u8>,
    /// The part of `encoded` that is not decoded yet.
    left: std::ops::Range<usize>,
    text: Vec<u8>,
    /// The part of `text` that is not given out yet.
    ready: std::ops::Range<usize>,
    is_ended: bool,
}

/// An encoding that the first bytes of a text show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WideEncoding {
    Utf16Le,
    Utf16Be,
    Utf32,
}

// === impl EncodedText ===

impl EncodedText {
    /// Looks at the first bytes of a text. A byte order mark counts more than the encoding that was stated.
    pub(super) fn new(
        mut bytes: Box<dyn Read>,
        stated: Option<TextEncoding>,
    ) -> Result<Self, FileFault> {
        let mut first = Vec::new();
        (&mut bytes).take(4).read_to_end(&mut first)?;
        match (WideEncoding::of(&first), stated) {
            (Some(WideEncoding::Utf32), _) => {
                return FileFault::stated(
                    "its text is UTF-32, which is not read: convert it first, as in `iconv -f utf-32 -t utf-8`",
                );
            }
            (Some(wide), None) => {
                let label = if wide == WideEncoding::Utf16Le { "utf-16le" } else { "utf-16be" };
                return FileFault::stated(format!(
                    "its text is UTF-16, not UTF-8: state --encoding {label}"
                ));
            }
            _ => {}
        }
        let encoding = stated.map_or(UTF_8, |TextEncoding(encoding)| encoding);
        if encoding == UTF_8 {
            let kept = first.strip_prefix(UTF_8_MARK).unwrap_or(&first).to_vec();
            let utf_8 = Box::new(io::Cursor::new(kept).chain(bytes));
            return Ok(Self { utf_8, encoding });
        }
        let bytes = Box::new(io::Cursor::new(first).chain(bytes));
        Ok(Self { utf_8: Box::new(DecodingReader::new(bytes, encoding)), encoding })
    }
}

/// A description of valid text, for bytes that are none in `encoding`.
pub(super) fn text_expected(bytes: &[u8], encoding: &'static Encoding) -> String {
    let expected = format!("text in {}", encoding.name());
    let is_windows_1252 = !bytes.iter().any(|byte| NOT_WINDOWS_1252.contains(byte) || *byte == 0);
    if encoding != UTF_8 || !is_windows_1252 {
        return expected;
    }
    format!(
        "{expected}; these bytes are text in Windows-1252: if the file is, state --encoding windows-1252"
    )
}

/// The bytes around the first that is not UTF-8.
pub(super) fn around_fault(bytes: &[u8]) -> &[u8] {
    let at = str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    &bytes[at.saturating_sub(SHOWN_BYTES)..bytes.len().min(at + SHOWN_BYTES)]
}

// === impl DecodingReader ===

impl DecodingReader {
    fn new(input: Box<dyn Read>, encoding: &'static Encoding) -> Self {
        Self {
            input,
            decoder: encoding.new_decoder(),
            encoded: vec![0; DECODED_BYTES],
            left: 0..0,
            text: vec![0; DECODED_BYTES + 1],
            ready: 0..0,
            is_ended: false,
        }
    }

    /// Decodes the next piece of text into `text`.
    fn decode(&mut self) -> io::Result<()> {
        if self.left.is_empty() {
            self.left = 0..self.input.read(&mut self.encoded)?;
        }
        let is_last = self.left.is_empty();
        let encoded = &self.encoded[self.left.clone()];
        // One byte stays free for what is no text.
        let text = &mut self.text[..DECODED_BYTES];
        let (result, read, written) =
            self.decoder.decode_to_utf8_without_replacement(encoded, text, is_last);
        self.left.start += read;
        self.ready = 0..written;
        match result {
            DecoderResult::InputEmpty => self.is_ended = is_last,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => {
                self.text[written] = NOT_TEXT;
                self.ready.end += 1;
            }
        }
        Ok(())
    }
}

impl Read for DecodingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() && !self.is_ended {
            self.decode()?;
        }
        let bytes = (&self.text[self.ready.clone()]).read(buffer)?;
        self.ready.start += bytes;
        Ok(bytes)
    }
}

// === impl WideEncoding ===

impl WideEncoding {
    /// By a byte order mark, or by the zeros beside ASCII characters.
    fn of(first: &[u8]) -> Option<Self> {
        match first {
            [0xff, 0xfe, 0, 0] | [0, 0, 0xfe, 0xff] | [1..=255, 0, 0, 0] | [0, 0, 0, 1..=255] => {
                Some(Self::Utf32)
            }
            [0xff, 0xfe, ..] | [1..=255, 0, 1..=255, 0] => Some(Self::Utf16Le),
            [0xfe, 0xff, ..] | [0, 1..=255, 0, 1..=255] => Some(Self::Utf16Be),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use encoding_rs::WINDOWS_1252;

    #[test]
    fn wide_encodings_are_seen_by_marks_and_zeros() {
        use WideEncoding::{Utf16Be, Utf16Le, Utf32};
        for (first, expected) in [
            (&b"user"[..], None),
            (b"\xef\xbb\xbfu", None),
            (b"", None),
            (b"\0\0\0\0", None),
            (b"\xff\xfeu\0", Some(Utf16Le)),
            (b"\xfe\xff\0u", Some(Utf16Be)),
            (b"u\0s\0", Some(Utf16Le)),
            (b"\0u\0s", Some(Utf16Be)),
            (b"\xff\xfe\0\0", Some(Utf32)),
            (b"\0\0\xfe\xff", Some(Utf32)),
            (b"u\0\0\0", Some(Utf32)),
            (b"\0\0\0u", Some(Utf32)),
        ] {
            assert_eq!(WideEncoding::of(first), expected, "{first:?}");
        }
    }

    /// Gives one byte at a time, so that every character is cut.
    struct Drops(io::Cursor<Vec<u8>>);

    impl Read for Drops {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let one = buffer.len().min(1);
            self.0.read(&mut buffer[..one])
        }
    }

    #[test]
    fn text_is_decoded_in_pieces_of_any_size() {
        let text = "id;naïve – 🦀\r\n".repeat(5_000);
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let (narrow, _, _) = WINDOWS_1252.encode("café – €");
        for (bytes, label, expected) in [
            (wide.clone(), "utf-16le", text.as_bytes().to_vec()),
            ([b"\xff\xfe".to_vec(), wide].concat(), "utf-16le", text.as_bytes().to_vec()),
            (b"\xfe\xff\0u\0s".to_vec(), "utf-16le", b"us".to_vec()),
            (b"u\0\0\xd8s\0".to_vec(), "utf-16le", b"u\xffs".to_vec()),
            (b"u\0s".to_vec(), "utf-16le", b"u\xff".to_vec()),
            (narrow.to_vec(), "windows-1252", "café – €".as_bytes().to_vec()),
            (b"\xef\xbb\xbfu".to_vec(), "windows-1252", b"u".to_vec()),
            (b"\xef\xbb\xbfu\xff".to_vec(), "utf-8", b"u\xff".to_vec()),
        ] {
            let stated = Some(label.parse().unwrap());
            let input = Box::new(Drops(io::Cursor::new(bytes)));
            let mut text = EncodedText::new(input, stated).ok().unwrap();
            let mut found = Vec::new();
            text.utf_8.read_to_end(&mut found).unwrap();
            assert!(found == expected, "{label}: {:?}", String::from_utf8_lossy(&found));
        }
    }
}

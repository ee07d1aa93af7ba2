//! Decompresses gzip and zstd files, and says where one is cut or damaged.

use super::byte_meter::ByteMeter;
use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, BufReader, Read};

const GZIP_FIRST_BYTE: u8 = 0x1f;

/// The compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Plain,
    Zstd,
    Gzip,
}

/// A file of gzip members, perhaps with zeros between and after them, as tapes and block devices leave them.
struct GzipReader<R: Read> {
    /// The member that is being read; none after the last.
    member: Option<GzDecoder<BufReader<R>>>,
}

/// A decompressed file whose errors say what is wrong with the compressed one.
struct NamedFaults<R> {
    text: R,
    kind: &'static str,
    read: ByteMeter,
}

// === impl Compression ===

impl Compression {
    /// The compression by a file's name, and the name without its ending.
    pub(super) fn of(name: &str) -> (Self, &str) {
        match name.rsplit_once('.') {
            Some((stem, "zst" | "zstd")) => (Self::Zstd, stem),
            Some((stem, "gz" | "gzip")) => (Self::Gzip, stem),
            _ => (Self::Plain, name),
        }
    }

    /// The compression by a file's first bytes.
    pub(super) fn by_content(first: &[u8]) -> Self {
        match first {
            // The second is a frame to skip: pzstd begins with one.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Self::Zstd,
            [GZIP_FIRST_BYTE, 0x8b, ..] => Self::Gzip,
            _ => Self::Plain,
        }
    }

    /// A file of this compression, in a sentence.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "a plain file",
            Self::Zstd => "a zstd file",
            Self::Gzip => "a gzip file",
        }
    }

    /// The decompressed bytes of a file. `read` counts the bytes that are read of it.
    pub(super) fn unpack(
        self,
        file: impl Read + 'static,
        read: ByteMeter,
    ) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Plain => Box::new(file),
            Self::Zstd => {
                let text = zstd::Decoder::new(file)?;
                Box::new(NamedFaults { text, kind: "zstd", read })
            }
            Self::Gzip => {
                let text = GzipReader { member: Some(GzDecoder::new(BufReader::new(file))) };
                Box::new(NamedFaults { text, kind: "gzip", read })
            }
        })
    }
}

// === impl GzipReader ===

impl<R: Read> GzipReader<R> {
    /// Goes on to the next member after the end of one. Returns whether there is one.
    fn next_member(&mut self, mut file: BufReader<R>) -> io::Result<bool> {
        loop {
            let bytes = file.fill_buf()?;
            if bytes.is_empty() {
                return Ok(false);
            }
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            if zeros == 0 && bytes[0] != GZIP_FIRST_BYTE {
                let why = "what follows its last member is not gzip";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            if zeros == 0 {
                self.member = Some(GzDecoder::new(file));
                return Ok(true);
            }
            file.consume(zeros);
        }
    }
}

impl<R: Read> Read for GzipReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let bytes = member.read(buffer)?;
            if bytes > 0 || buffer.is_empty() {
                return Ok(bytes);
            }
            let Some(member) = self.member.take() else { break };
            if !self.next_member(member.into_inner())? {
                break;
            }
        }
        Ok(0)
    }
}

// === impl NamedFaults ===

impl<R: Read> Read for NamedFaults<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (kind, byte) = (self.kind, &self.read);
        self.text.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            io::ErrorKind::UnexpectedEof => {
                let why = format!(
                    "the file is cut: its {kind} data stops in the middle, at byte {}",
                    byte.get()
                );
                io::Error::new(io::ErrorKind::UnexpectedEof, why)
            }
            found => {
                let why = format!("its {kind} data is damaged before byte {}: {error}", byte.get());
                io::Error::new(found, why)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(text).unwrap();
        packed.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 1).unwrap()
    }

    fn unpacked(packed: &[u8]) -> Result<Vec<u8>, String> {
        let meter = ByteMeter::default();
        let file = meter.counting(io::Cursor::new(packed.to_vec()));
        let compression = Compression::by_content(&packed[..packed.len().min(4)]);
        let mut text = Vec::new();
        let mut reader = compression.unpack(file, meter).unwrap();
        reader.read_to_end(&mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }

    #[test]
    fn members_and_frames_are_read_to_the_last() {
        let skipped = |n: u8| [&[n, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
        for (name, packed, expected) in [
            ("one member", gzip(b"ab"), "ab"),
            ("members", [gzip(b"a"), gzip(b""), gzip(b"b")].concat(), "ab"),
            ("zeros after", [gzip(b"ab"), vec![0; 99_999]].concat(), "ab"),
            ("zeros between", [gzip(b"a"), vec![0; 512], gzip(b"b")].concat(), "ab"),
            ("an empty member", gzip(b""), ""),
            ("frames", [zstd(b"a"), zstd(b""), zstd(b"b")].concat(), "ab"),
            ("skippable first", [skipped(0x50), zstd(b"ab")].concat(), "ab"),
            ("as pzstd", [skipped(0x50), zstd(b"a"), skipped(0x50), zstd(b"b")].concat(), "ab"),
            ("skippable last", [zstd(b"ab"), skipped(0x5f)].concat(), "ab"),
        ] {
            assert_eq!(unpacked(&packed).as_deref(), Ok(expected.as_bytes()), "{name}");
        }
    }

    #[test]
    fn cut_and_damaged_files_are_named() {
        let text: Vec<u8> =
            (0..100_000_u32).flat_map(|n| (n * 7_919 % 65_521).to_le_bytes()).collect();
        for (kind, packed) in [("gzip", gzip(&text)), ("zstd", zstd(&text))] {
            for cut in [5, 12, packed.len() / 2, packed.len() - 1] {
                let error = unpacked(&packed[..cut]).unwrap_err();
                let expected =
                    format!("the file is cut: its {kind} data stops in the middle, at byte {cut}");
                assert_eq!(error, expected);
            }
            let after = unpacked(&[&packed[..], b"rest of another file"].concat()).unwrap_err();
            assert!(
                after.starts_with(&format!("its {kind} data is damaged before byte ")),
                "{after}"
            );
        }
        let mut wrong_sum = gzip(&text);
        let at = wrong_sum.len() - 6;
        wrong_sum[at] ^= 1;
        let error = unpacked(&wrong_sum).unwrap_err();
        assert!(error.contains("checksum"), "{error}");
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 9, 0, 0, 0, b'c'];
        let error = unpacked(&[&zstd(b"a")[..], &skippable].concat()).unwrap_err();
        assert!(error.starts_with("the file is cut: its zstd data"), "{error}");
        // A window of 2 GiB: it is refused before it is allocated.
        let error = unpacked(b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00").unwrap_err();
        assert!(error.contains("too much memory"), "{error}");
    }
}

//! A compressed file that is written by a thread of its own, hashed on the way, and on the disk when it is done.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// zstd's default level: compression takes no longer than the disk.
const COMPRESSION_LEVEL: i32 = 3;
/// Bytes that are handed over at a time.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks that may wait for the disk.
const BLOCKS_WAITING: usize = 4;

/// Takes text and hands it over in blocks.
pub(super) struct BlockWriter {
    block: Vec<u8>,
    blocks: SyncSender<Vec<u8>>,
}

/// A file that hashes what is written to it.
struct HashedFile {
    file: File,
    hasher: blake3::Hasher,
}

/// Writes a compressed file, and waits until it is on the disk. Returns its BLAKE3 hash in hexadecimal.
pub(super) fn write_packed(
    path: &Path,
    write: impl FnOnce(&mut BlockWriter) -> io::Result<()>,
) -> io::Result<String> {
    let file = HashedFile { file: File::create(path)?, hasher: blake3::Hasher::new() };
    let (blocks, arrived) = sync_channel::<Vec<u8>>(BLOCKS_WAITING);
    thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let mut encoder = zstd::Encoder::new(BufWriter::new(file), COMPRESSION_LEVEL)?;
            arrived.iter().try_for_each(|block| encoder.write_all(&block))?;
            let file = encoder.finish()?.into_inner()?;
            file.file.sync_all()?;
            Ok(file.hasher.finalize().to_hex().to_string())
        });
        let mut to = BlockWriter { block: Vec::with_capacity(BLOCK_BYTES), blocks };
        let written = write(&mut to).and_then(|()| to.hand_over());
        drop(to);
        let packed = packing.join().map_err(|_| io::Error::other("the compressor panicked"))?;
        // If the disk fails, the error of the hand-over only says that nobody takes blocks any more.
        packed.and_then(|hash| written.map(|()| hash))
    })
}

// === impl BlockWriter ===

impl BlockWriter {
    fn hand_over(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
        self.blocks.send(block).map_err(|_| io::Error::other("the compressor has ended"))
    }
}

impl Write for BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.block.extend_from_slice(bytes);
        if self.block.len() >= BLOCK_BYTES {
            self.hand_over()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

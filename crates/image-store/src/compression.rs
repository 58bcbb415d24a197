//! Decompression of layers: plain, gzip or zstd. A zstd layer may have several frames: seekable archives
//! have thousands of frames, and some of them are skippable.

use std::io::{self, Read, Seek};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// The decompressed archive of a blob. The compression is detected from the first bytes, because media
/// types are often wrong.
pub(crate) fn decompressed(
    mut file: impl Read + Seek + Send + 'static,
) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = [0; 4];
    let mut length = 0;
    while length < magic.len() {
        match file.read(&mut magic[length..])? {
            0 => break,
            count => length += count,
        }
    }
    file.rewind()?;
    let buffered = io::BufReader::with_capacity(1 << 16, file);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(buffered)),
        magic if Frames::begin_with(&magic) => Box::new(Frames::new(buffered)),
        _ => Box::new(buffered),
    })
}

type Source = Box<dyn Read + Send>;
type Decoder = StreamingDecoder<Source, FrameDecoder>;

/// A reader of consecutive zstd frames: seekable archives have thousands of frames.
struct Frames {
    source: Option<Source>,
    current: Option<Box<Decoder>>,
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.current {
                match decoder.read(buffer)? {
                    0 if !buffer.is_empty() => {
                        self.source = self.current.take().map(|decoder| decoder.into_inner());
                    }
                    count => return Ok(count),
                }
            }
            if !self.begin_frame()? {
                return Ok(0);
            }
        }
    }
}

impl Frames {
    fn new(source: impl Read + Send + 'static) -> Self {
        Self {
            source: Some(Box::new(source)),
            current: None,
        }
    }

    /// Whether this reader can decode a file with these first bytes.
    fn begin_with(magic: &[u8]) -> bool {
        match magic {
            [0x28, 0xb5, 0x2f, 0xfd] => true,
            [low, 0x2a, 0x4d, 0x18] => low & 0xf0 == 0x50,
            _ => false,
        }
    }

    fn begin_frame(&mut self) -> io::Result<bool> {
        let Some(mut source) = self.source.take() else {
            return Ok(false);
        };
        let mut first = [0];
        loop {
            match source.read(&mut first) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut magic = [first[0], 0, 0, 0];
        source.read_exact(&mut magic[1..])?;
        if magic[1..] == [0x2a, 0x4d, 0x18] {
            let mut length = [0; 4];
            source.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            if io::copy(&mut source.by_ref().take(length), &mut io::sink())? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.source = Some(source);
            return self.begin_frame();
        }
        let whole: Source = Box::new(io::Cursor::new(magic).chain(source));
        match StreamingDecoder::new(whole) {
            Ok(decoder) => {
                self.current = Some(Box::new(decoder));
                Ok(true)
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::BadMagicNumber(
                _,
            ))) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes behind a zstd frame",
            )),
            Err(error) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                error.to_string(),
            )),
        }
    }
}

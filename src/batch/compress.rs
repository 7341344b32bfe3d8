//! A closed body, packed. Knows nothing of what is in it.

use std::io::{self, Read, Write as _};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use zstd::bulk::Compressor as ZstdEncoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::model::{Coding, Compression};
use crate::wire::BODY_MAX;

/// Packs one body after the other. What zstd needs for it (half a megabyte and more) is kept.
pub struct Compressor(Kind);

enum Kind {
    None,
    Gzip(flate2::Compression),
    Zstd(Option<ZstdEncoder<'static>>),
}

impl Compressor {
    /// One that packs as told; not at all without `compression`.
    #[must_use]
    pub fn new(compression: Option<Compression>) -> Self {
        let Some(Compression { coding, level }) = compression else {
            return Self(Kind::None);
        };
        Self(match coding {
            Coding::Gzip => Kind::Gzip(flate2::Compression::new(level.into())),
            // Fails for want of memory only; bodies go as they are then.
            Coding::Zstd => Kind::Zstd(ZstdEncoder::new(level.into()).ok()),
        })
    }

    /// The body as it is published, and what it is packed with. It stays as it is when it is empty,
    /// when packing fails, and when it would become longer than a body may be.
    #[must_use]
    pub fn pack(&mut self, body: Vec<u8>) -> (Vec<u8>, Option<Coding>) {
        if body.is_empty() {
            return (body, None);
        }
        let (packed, coding) = match &mut self.0 {
            Kind::None | Kind::Zstd(None) => return (body, None),
            Kind::Gzip(level) => (gzip(*level, &body), Coding::Gzip),
            Kind::Zstd(Some(encoder)) => (encoder.compress(&body), Coding::Zstd),
        };
        match packed {
            Ok(packed) if packed.len() <= BODY_MAX => (packed, Some(coding)),
            _ => (body, None),
        }
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let coding = match self.0 {
            Kind::None => None,
            Kind::Gzip(_) => Some(Coding::Gzip),
            Kind::Zstd(_) => Some(Coding::Zstd),
        };
        f.debug_tuple("Compressor").field(&coding).finish()
    }
}

fn gzip(level: flate2::Compression, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), level);
    encoder.write_all(body)?;
    encoder.finish()
}

/// The body as it was before it was packed.
///
/// # Errors
/// It is not what `coding` makes, or longer than any body is before it is packed.
pub fn unpack(body: &[u8], coding: Option<Coding>) -> io::Result<Vec<u8>> {
    match coding {
        None => Ok(body.to_vec()),
        Some(Coding::Gzip) => read_all(GzDecoder::new(body)),
        Some(Coding::Zstd) => read_all(ZstdDecoder::new(body)?),
    }
}

fn read_all(unpacked: impl Read) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    unpacked.take(BODY_MAX as u64 + 1).read_to_end(&mut body)?;
    if body.len() > BODY_MAX {
        return Err(io::Error::other("unpacked, the body is too long"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressor(coding: Coding, level: u8) -> Compressor {
        Compressor::new(Some(Compression { coding, level }))
    }

    #[test]
    fn every_level_gives_back_what_was_packed() {
        let body = b"GET / 200\nGET /favicon.ico 404\n".repeat(1000);
        let codings = [(Coding::Gzip, 0..=9), (Coding::Zstd, 1..=22)];
        for (coding, levels) in codings {
            for level in levels {
                let mut compressor = compressor(coding, level);
                for body in [&body[..], b"x\n", &body] {
                    let (packed, used) = compressor.pack(body.to_vec());
                    assert_eq!(used, Some(coding));
                    let unpacked = unpack(&packed, used).expect("unpacked");
                    assert_eq!(unpacked, body, "{coding:?} {level}");
                }
            }
        }
    }

    #[test]
    fn packed_bodies_begin_as_their_formats_say_and_name_no_time() {
        // RFC 1952: magic, deflate, no flags, no time, fastest, unknown system.
        let (packed, _) = compressor(Coding::Gzip, 1).pack(b"x\n".to_vec());
        assert_eq!(packed[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);
        // RFC 8878: magic; one segment, its length in a byte; one raw block, the last.
        let (packed, _) = compressor(Coding::Zstd, 1).pack(b"x\n".to_vec());
        assert_eq!(
            packed,
            [0x28, 0xb5, 0x2f, 0xfd, 0x20, 2, 0x11, 0, 0, b'x', b'\n']
        );
    }

    #[test]
    fn what_would_unpack_to_more_than_a_body_is_refused() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let packed = |len| compressor(coding, 1).pack(vec![0; len]).0;
            let longest = unpack(&packed(BODY_MAX), Some(coding)).expect("unpacked");
            assert_eq!(longest.len(), BODY_MAX);
            assert!(unpack(&packed(BODY_MAX + 1), Some(coding)).is_err());
            assert!(unpack(b"neither", Some(coding)).is_err());
        }
    }

    #[test]
    fn what_packing_makes_too_long_and_what_is_empty_go_as_they_are() {
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..BODY_MAX)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_be_bytes()[0]
            })
            .collect();
        for coding in [Coding::Gzip, Coding::Zstd] {
            let mut compressor = compressor(coding, 1);
            let (body, used) = compressor.pack(noise.clone());
            assert!(body == noise && used.is_none());
            assert_eq!(compressor.pack(Vec::new()), (Vec::new(), None));
        }
    }
}

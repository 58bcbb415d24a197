//! The empty file system of a new pool. The image is part of the program, so the creation of a pool needs no other
//! program. Each pool has a different UUID.
//!
//! The image was created with `truncate -s 64M FILE; mkfs.btrfs -m single -d single -O no-holes -R free-space-tree
//! FILE` (btrfs-progs 6.2), and `zstd -19`.

use std::io::{self, Read};

/// The file system, compressed.
const EMPTY: &[u8] = include_bytes!("../data/empty-pool.btrfs.zst");
/// The offset of the superblock. Its copy at 64 MiB is beyond the end of the image.
const SUPERBLOCK: usize = 0x1_0000;
const SUPERBLOCK_LENGTH: usize = 4096;
/// Offsets in the superblock.
const UUID: usize = 0x20;
const INCOMPATIBLE: usize = 0xbc;
const METADATA_UUID: usize = 0x23b;
/// The flag for blocks with another UUID than the UUID of the file system.
const HAS_METADATA_UUID: u64 = 1 << 10;

/// The image of an empty file system with the given UUID, so that several pools can be mounted at once. Only the
/// superblock changes: the flag in the superblock states that all other blocks have the UUID of their creation.
///
/// # Errors
/// The built-in image is damaged.
pub(crate) fn empty(uuid: [u8; 16]) -> io::Result<Vec<u8>> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut decoder =
        ruzstd::decoding::StreamingDecoder::new(EMPTY).map_err(|e| invalid(e.to_string()))?;
    let mut image = Vec::new();
    decoder.read_to_end(&mut image)?;
    let block = image
        .get_mut(SUPERBLOCK..SUPERBLOCK + SUPERBLOCK_LENGTH)
        .ok_or_else(|| invalid("the built-in image is too short".to_owned()))?;
    let metadata_uuid: [u8; 16] = std::array::from_fn(|at| block[UUID + at]);
    block[METADATA_UUID..METADATA_UUID + 16].copy_from_slice(&metadata_uuid);
    block[UUID..UUID + 16].copy_from_slice(&uuid);
    let flags: [u8; 8] = std::array::from_fn(|at| block[INCOMPATIBLE + at]);
    let flags = u64::from_le_bytes(flags) | HAS_METADATA_UUID;
    block[INCOMPATIBLE..INCOMPATIBLE + 8].copy_from_slice(&flags.to_le_bytes());
    let sum = crc32c(&block[UUID..]);
    block[..4].copy_from_slice(&sum.to_le_bytes());
    Ok(image)
}

/// The checksum of blocks (Castagnoli polynomial), bit by bit: a table is not necessary for 4 KiB.
fn crc32c(data: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in data {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn each_image_has_an_identity_of_its_own() {
        let image = empty([7; 16]).unwrap();
        assert_eq!(image.len(), 64 << 20);
        let block = &image[SUPERBLOCK..SUPERBLOCK + SUPERBLOCK_LENGTH];
        assert_eq!(block[0x40..0x48], *b"_BHRfS_M");
        assert_eq!(block[UUID..UUID + 16], [7; 16]);
        assert_ne!(block[METADATA_UUID..METADATA_UUID + 16], [0; 16]);
        assert_eq!(block[..4], crc32c(&block[UUID..]).to_le_bytes());
    }
}

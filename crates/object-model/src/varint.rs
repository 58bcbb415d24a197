//! Variable-length integers of protobuf: seven bits per byte, the lowest bits first; the top bit means that more
//! bytes follow.

/// A number of 64 bits takes at most ten bytes.
const BYTES_MAX: usize = 10;

/// The bytes do not start with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VarintError {
    /// The bytes end inside of the number.
    #[error("unexpected end of the message")]
    Cut,
    /// The number has more than ten bytes.
    #[error("a number with too many digits")]
    TooLong,
}

/// Appends a number in base 128, the lowest seven bits first: 1 to 10 bytes.
pub fn put(out: &mut impl Extend<u8>, mut value: u64) {
    while value >= 0x80 {
        out.extend([value.to_le_bytes()[0] | 0x80]);
        value >>= 7;
    }
    out.extend([value.to_le_bytes()[0]]);
}

/// Removes the number at the front of the bytes and returns it.
///
/// # Errors
/// The bytes do not start with a number.
pub fn read(bytes: &mut &[u8]) -> Result<u64, VarintError> {
    let mut value = 0;
    for index in 0..BYTES_MAX {
        let (first, rest) = bytes.split_first().ok_or(VarintError::Cut)?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << (7 * index);
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(VarintError::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for (value, written) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (
                u64::MAX,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ),
        ] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out, written);
            out.push(7);
            let mut rest = &out[..];
            assert_eq!(read(&mut rest), Ok(value));
            assert_eq!(rest, [7]);
        }
    }

    #[test]
    fn bytes_that_are_no_number_are_refused() {
        assert_eq!(read(&mut &[][..]), Err(VarintError::Cut));
        assert_eq!(read(&mut &[0x80, 0x80][..]), Err(VarintError::Cut));
        assert_eq!(read(&mut &[0x80; 11][..]), Err(VarintError::TooLong));
    }
}

//! CRC-32C as the kernel computes it for send streams: the initial value is zero, and the result is not
//! inverted.

/// The polynomial of Castagnoli, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let carry = value & 1;
            value = (value >> 1) ^ (POLYNOMIAL * carry);
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

/// The checksum of a sequence of bytes whose first part has the checksum `before`; `bytes` is the rest.
pub(crate) fn extend(before: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(before, |value, byte| {
        TABLE[usize::from(value as u8 ^ byte)] ^ (value >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-32C, which inverts the register at both ends (RFC 3720, B.4).
    #[test]
    fn the_polynomial_is_that_of_the_standard() {
        assert_eq!(!extend(!0, b"123456789"), 0xe306_9283);
        assert_eq!(!extend(!0, &[0; 32]), 0x8a91_36aa);
        let parts = extend(extend(0, b"1234"), b"56789");
        assert_eq!(parts, extend(0, b"123456789"));
    }
}

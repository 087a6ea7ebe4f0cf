//! Addresses: `inet`, `cidr`, `macaddr`, and identifiers written like them: `uuid`, `pg_lsn`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::text::hex_bytes;
use super::{Format, Invalid};

/// An `inet` or `cidr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The address, in the first 4 or all 16 bytes.
    address: [u8; 16],
    bytes: usize,
    /// Bits of the network.
    bits: u8,
}

impl Network {
    /// Reads one.
    pub fn read(format: Format, value: &[u8]) -> Result<Self, Invalid> {
        match format {
            Format::Binary => {
                // family, bits, is it a cidr, number of bytes, address
                let ([family, bits, _, bytes], address) =
                    value.split_first_chunk().ok_or(Invalid)?;
                if !matches!((*family, *bytes), (2, 4) | (3, 16))
                    || address.len() != usize::from(*bytes)
                {
                    return Err(Invalid);
                }
                Self::new(address, *bits)
            }
            Format::Text => {
                let text = std::str::from_utf8(value).map_err(|_| Invalid)?;
                let (address, bits) = match text.split_once('/') {
                    Some((address, bits)) => (address, Some(bits.parse().map_err(|_| Invalid)?)),
                    None => (text, None),
                };
                if let Ok(address) = address.parse::<Ipv4Addr>() {
                    Self::new(&address.octets(), bits.unwrap_or(32))
                } else {
                    let address: Ipv6Addr = address.parse().map_err(|_| Invalid)?;
                    Self::new(&address.octets(), bits.unwrap_or(128))
                }
            }
        }
    }

    fn new(address: &[u8], bits: u8) -> Result<Self, Invalid> {
        let mut network = Self {
            address: [0; 16],
            bytes: address.len(),
            bits,
        };
        let place = network.address.get_mut(..address.len()).ok_or(Invalid)?;
        place.copy_from_slice(address);
        (usize::from(bits) <= address.len() * 8)
            .then_some(network)
            .ok_or(Invalid)
    }

    /// Appends a key of PostgreSQL's order: family, then the network bit by bit with the shorter first, then the whole
    /// address.
    ///
    /// Source: `network_cmp_internal`
    pub fn put_key(&self, out: &mut Vec<u8>) {
        let address = self.address.get(..self.bytes).unwrap_or_default();
        out.push(if self.bytes == 4 { 4 } else { 6 });
        let bit = |index: usize| {
            address
                .get(index / 8)
                .is_some_and(|byte| byte >> (7 - index % 8) & 1 == 1)
        };
        out.extend((0..usize::from(self.bits)).map(|index| 1 + u8::from(bit(index))));
        out.push(0);
        out.extend_from_slice(address);
    }
}

/// Reads a uuid.
pub fn uuid(format: Format, value: &[u8]) -> Result<[u8; 16], Invalid> {
    let bytes = match format {
        Format::Binary => value.to_vec(),
        Format::Text => hex_bytes(&without(value, b'-'))?,
    };
    bytes.try_into().map_err(|_| Invalid)
}

/// Reads a macaddr (6 bytes) or macaddr8.
pub fn mac(format: Format, bytes: usize, value: &[u8]) -> Result<Vec<u8>, Invalid> {
    let address = match format {
        Format::Binary => value.to_vec(),
        Format::Text => hex_bytes(&without(value, b':'))?,
    };
    (address.len() == bytes).then_some(address).ok_or(Invalid)
}

/// Reads a pg_lsn: `16/B374D848`.
pub fn lsn(format: Format, value: &[u8]) -> Result<u64, Invalid> {
    match format {
        Format::Binary => value
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| Invalid),
        Format::Text => {
            let text = std::str::from_utf8(value).map_err(|_| Invalid)?;
            let (high, low) = text.split_once('/').ok_or(Invalid)?;
            let half = |half: &str| u32::from_str_radix(half, 16).map_err(|_| Invalid);
            Ok(u64::from(half(high)?) << 32 | u64::from(half(low)?))
        }
    }
}

fn without(value: &[u8], separator: u8) -> Vec<u8> {
    value
        .iter()
        .copied()
        .filter(|byte| *byte != separator)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_ordered_as_in_the_documentation_of_the_operators() {
        let key = |text: &str| {
            let mut key = Vec::new();
            Network::read(Format::Text, text.as_bytes())
                .unwrap()
                .put_key(&mut key);
            key
        };
        let ordered = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.2.3/8",
            "10.0.0.0/16",
            "10.0.0.0",
            "10.0.0.1/32",
            "192.168.1.0/24",
            "::/0",
            "::1",
            "2001:db8::/32",
        ];
        for pair in ordered.windows(2) {
            assert!(key(pair[0]) < key(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in ["1.2.3", "1.2.3.4/33", "::/129", "1.2.3.4/x", ""] {
            assert_eq!(
                Network::read(Format::Text, text.as_bytes()),
                Err(Invalid),
                "{text}"
            );
        }
        for value in [
            &b""[..],
            b"\x02\x20\0\x04abc",
            b"\x03\x20\0\x04abcd",
            b"\x02\x21\0\x04abcd",
        ] {
            assert_eq!(Network::read(Format::Binary, value), Err(Invalid));
        }
        assert_eq!(uuid(Format::Text, b"0-0"), Err(Invalid));
        assert_eq!(mac(Format::Text, 6, b"08:00:2b:01:02"), Err(Invalid));
        assert_eq!(lsn(Format::Text, b"16/B374D848"), Ok(0x16_b374_d848));
    }
}

//! Four words that stand for a digest: what two people, or two screens, compare at a glance.

/// The first 44 bits of a digest as four words of BIP 39's English list.
pub fn fingerprint(digest: &[u8; 32]) -> String {
    let words = bip39::Language::English.word_list();
    let bits = digest[..6].iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)) >> 4;
    let word = |at: u32| words[(bits >> (11 * (3 - at)) & 0x7ff) as usize];
    [0, 1, 2, 3].map(word).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_one_of_the_44_bits_is_in_a_word() {
        let mut digest = [0; 32];
        let none = fingerprint(&digest);
        assert_eq!(none, "abandon abandon abandon abandon");
        for bit in 0..44 {
            digest[bit / 8] = 0x80 >> (bit % 8);
            assert_ne!(fingerprint(&digest), none, "{bit}");
            digest[bit / 8] = 0;
        }
        assert_eq!(fingerprint(&[0xff; 32]), "zoo zoo zoo zoo");
    }
}

//! Storage sizes as people write them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A storage size as people write it: `256gb`, `256GB`, `256Gi`, `1.5tb`. `mb`, `gb`, `tb` and `pb` are powers of ten,
/// `Mi`, `Gi`, `Ti` and `Pi` powers of two; case and a trailing `b` do not matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Size(
    #[schemars(length(max = 20), regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,6})?([mMgGtTpP][iI]?[bB]?)$"))] pub String,
);

/// CEL: this size as a quantity of Kubernetes. The unit is upper case there but for the `i`, and has no `b`.
macro_rules! quantity {
    ($s:literal) => {
        concat!("quantity(", $s, ".upperAscii().replace('B', '').replace('I', 'i'))")
    };
}
pub(crate) use quantity;
/// CEL rule of a field of type [`Size`]: more than 0.
pub(crate) const POSITIVE: &str = concat!(quantity!("self"), ".isGreaterThan(quantity('0'))");
/// CEL rule of a field of type [`Size`]: not less than before.
pub(crate) const GROWS: &str = concat!(quantity!("self"), ".compareTo(", quantity!("oldSelf"), ") >= 0");

/// Why a text is not a [`Size`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size; write a number and a unit such as 256gb, 256Gi or 1.5tb")]
pub struct SizeError(String);

impl Size {
    /// Number of bytes, rounded up. An error if the text is not a size or does not fit into 63 bits.
    pub fn bytes(&self) -> Result<i64, SizeError> {
        parse(&self.0).ok_or_else(|| SizeError(self.0.clone()))
    }
}

impl Size {
    /// Exactly so many bytes, in the largest unit that divides them.
    #[must_use]
    pub fn from_bytes(bytes: i64) -> Self {
        const UNITS: [(&str, i64); 6] = [
            ("Ti", 1 << 40),
            ("tb", 1_000_000_000_000),
            ("Gi", 1 << 30),
            ("gb", 1_000_000_000),
            ("Mi", 1 << 20),
            ("mb", 1_000_000),
        ];
        let whole = UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes % unit == 0);
        Self(match whole {
            Some((name, unit)) => format!("{}{name}", bytes / unit),
            None => format!("{}.{:06}mb", bytes / 1_000_000, bytes % 1_000_000),
        })
    }
}

impl From<&str> for Size {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn parse(text: &str) -> Option<i64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let unit = unit.to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let factor: u128 = match unit {
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        "p" => 1_000_000_000_000_000,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        "pi" => 1 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 6 || number.ends_with('.') {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    i64::try_from(digits.checked_mul(factor)?.div_ceil(scale)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write() {
        for (text, bytes) in [
            ("256gb", 256_000_000_000),
            ("256GB", 256_000_000_000),
            ("256G", 256_000_000_000),
            ("256Gi", 256 << 30),
            ("256gib", 256 << 30),
            ("1.5tb", 1_500_000_000_000),
            ("0.000001pb", 1_000_000_000),
        ] {
            assert_eq!(Size::from(text).bytes(), Ok(bytes), "{text}");
        }
        for text in
            ["", "gb", "256", "-1gb", "1,5gb", "1e3gb", "1.gb", "12kb", "1 gb", "1gbb", "99999999999999999999pb"]
        {
            assert!(Size::from(text).bytes().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back_as_they_were(bytes in 0_i64..900_000_000_000_000) {
            prop_assert_eq!(Size::from_bytes(bytes).bytes(), Ok(bytes));
        }

        #[test]
        fn never_panics(text in ".{0,24}") {
            let _ = Size(text).bytes();
        }

        #[test]
        fn case_does_not_matter(n in 0_u32..8_000, unit in "[mgtp]i?b?") {
            let lower = Size(format!("{n}{unit}")).bytes();
            let upper = Size(format!("{n}{}", unit.to_uppercase())).bytes();
            prop_assert!(lower.is_ok());
            prop_assert_eq!(lower, upper);
        }
    }
}

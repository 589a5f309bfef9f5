//! How a measured figure is written.

use crate::results::number;
use crate::stats::{median, spread};

/// The median of `values`, and the smallest and the largest if they differ.
pub fn figure(values: &[f64], unit: &str) -> String {
    let (low, high) = spread(values);
    let range = if low < high { format!(" ({} – {})", number(low), number(high)) } else { String::new() };
    format!("{} {unit}{range}", number(median(values))).trim().replace("  ", " ")
}

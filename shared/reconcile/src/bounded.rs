//! Gauges with a bounded number of labels, such as those of the busiest customers.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::mem::take;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::Platform;

type Family64<L> = Family<L, Gauge<f64, AtomicU64>>;

/// `N` gauges with the same labels. An update replaces all of them, so there are never more series than in one update.
pub struct BoundedGauges<L, const N: usize> {
    gauges: [Family64<L>; N],
    shown: BTreeSet<L>,
}

impl<L, const N: usize> BoundedGauges<L, N>
where
    L: Clone + Debug + EncodeLabelSet + Hash + Ord + Send + Sync + 'static,
{
    /// Registers the gauges, each with its name and help text.
    pub fn register(platform: &Platform, metrics: [(&str, &str); N]) -> Self {
        let gauges = metrics.map(|(name, help)| {
            let gauge = Family64::<L>::default();
            platform.register(|registry| registry.register(name, help, gauge.clone()));
            gauge
        });
        BoundedGauges { gauges, shown: BTreeSet::new() }
    }

    /// Shows these values and removes all others. A gauge without a value has no series for the label.
    pub fn replace(&mut self, entries: impl IntoIterator<Item = (L, [Option<f64>; N])>) {
        let before = take(&mut self.shown);
        for (labels, values) in entries {
            for (gauge, value) in self.gauges.iter().zip(values) {
                match value {
                    Some(value) => _ = gauge.get_or_create(&labels).set(value),
                    None => _ = gauge.remove(&labels),
                }
            }
            self.shown.insert(labels);
        }
        for labels in before.difference(&self.shown) {
            self.gauges.iter().for_each(|gauge| _ = gauge.remove(labels));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_the_former_update_are_removed() {
        let mut gauges = BoundedGauges::<[(&str, &str); 1], 2> { gauges: Default::default(), shown: BTreeSet::new() };
        let (one, other) = ([("customer", "a")], [("customer", "b")]);
        gauges.replace([(one, [Some(1.0), Some(2.0)]), (other, [Some(3.0), Some(4.0)])]);
        gauges.replace([(other, [Some(5.0), None])]);
        let value = |gauge: usize, labels| gauges.gauges[gauge].get(labels).map(|gauge| gauge.get());
        assert_eq!((value(0, &one), value(1, &one)), (None, None));
        assert_eq!((value(0, &other), value(1, &other)), (Some(5.0), None));
    }
}

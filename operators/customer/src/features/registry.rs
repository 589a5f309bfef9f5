//! The steps of a reconcile, over all features.

use std::pin::Pin;

use ahoi_api::{Customer, CustomerStatus, Reason};
use ahoi_reconcile::Error;

use super::announced::ANNOUNCED;
use super::chain::Chain;
use super::converge::converge;
use super::feature::{Feature, Observed};
use super::inputs::Inputs;
use super::keep::keep;
use super::remove::remove;
use super::report::Report;
use crate::children::Children;
use crate::offboarding::Offboarding;
use crate::wanted::Wanted;

/// The reports of all features.
pub struct Reports {
    /// The namespace, which the status does not list among the features.
    pub namespace: Report,
    pub features: Vec<Report>,
    /// The first error that is worth a retry.
    pub failed: Option<Error>,
}

impl Reports {
    /// All reports, in the order of creation.
    pub fn all(&self) -> impl Iterator<Item = &Report> {
        std::iter::once(&self.namespace).chain(&self.features)
    }
}

macro_rules! registry {
    ($($feature:ident: $type:ident => $kind:ident,)+) => {
        /// Resolves the spec of each child from Customer and Plan.
        pub fn resolve(inputs: &Inputs<'_>, wanted: &mut Wanted) {
            $(wanted.$feature = super::$feature::$type::resolve(inputs, wanted);)+
            $(super::$feature::$type::adjust(inputs, wanted);)+
        }

        /// Keeps the spec of each child while the Plan is missing, for this reason.
        pub fn keep_all(customer: &Customer, in_force: &Chain, reason: Reason, wanted: &mut Wanted) {
            $(
                let child = in_force.$feature.as_deref();
                wanted.$feature = keep::<super::$feature::$type>(customer, child, reason, wanted);
            )+
        }

        /// Creates, updates or deletes each child. `chain` has the children as they are afterwards.
        pub async fn converge_all(
            children: &Children,
            customer: &Customer,
            wanted: &Wanted,
            chain: &mut Chain,
        ) -> Reports {
            let (mut features, mut failed) = (Vec::new(), None);
            $(
                let owned = &children.$feature;
                let (child, report) =
                    converge::<super::$feature::$type>(owned, customer, wanted, chain, &mut failed).await;
                chain.$feature = child;
                features.push(report);
            )+
            // The namespace is the first of them.
            let namespace = features.remove(0);
            features.extend(ANNOUNCED.iter().map(|feature| feature.report(wanted.announced.contains(&feature.name))));
            Reports { namespace, features, failed }
        }

        /// Sets the fields of the status that single features have.
        pub fn record_all(
            status: &mut CustomerStatus,
            customer: &Customer,
            wanted: &Wanted,
            chain: &Chain,
            reports: &[Report],
        ) {
            $({
                let report = reports.iter().find(|report| report.name == super::$feature::$type::NAME);
                super::$feature::$type::record(status, &Observed { customer, wanted, chain, report });
            })+
        }

        /// Removes the children of a deleted Customer one after the other, in the reverse order of creation. `Ok(false)`: the
        /// CustomResourceDefinition is being deleted, and the rest stays.
        pub async fn remove_all(offboarding: &Offboarding<'_>) -> Result<bool, Error> {
            let children = offboarding.children;
            let steps: Vec<Step<'_>> =
                vec![$(Box::pin(remove::<super::$feature::$type>(offboarding, &children.$feature)),)+];
            for step in steps.into_iter().rev() {
                if !step.await? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    };
}
each_feature!(registry);

/// The removal of one child.
type Step<'a> = Pin<Box<dyn Future<Output = Result<bool, Error>> + Send + 'a>>;

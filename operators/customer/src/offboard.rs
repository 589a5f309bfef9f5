//! The deletion of a Customer, in an order that cannot hang: workers, pool, database (by the Customer's policy, also if it was
//! turned off and has left its data), namespace. Each step is triggered by the end of the one before.

use ahoi_reconcile::Error;
use kube::ResourceExt;

use crate::features::registry::remove_all;
use crate::foreground::take_back_namespace;
use crate::offboarding::Offboarding;

/// Removes what the customer has. `Err(Waiting)` until nothing is left.
pub async fn offboard(offboarding: &Offboarding<'_>) -> Result<(), Error> {
    let is_removed = take_back_namespace(offboarding).await? && remove_all(offboarding).await?;
    if !is_removed {
        // Deleting the definition deletes every Customer, which is rarely intended.
        let customer = offboarding.customer.name_any();
        tracing::warn!(customer, "kept everything: the CustomResourceDefinition of Customer is being deleted");
    }
    Ok(())
}

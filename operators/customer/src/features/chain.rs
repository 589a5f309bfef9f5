//! The children of a customer as they are.

use std::sync::Arc;

macro_rules! chain {
    ($($feature:ident: $type:ident => $kind:ident,)+) => {
        /// The child of each feature, where it exists.
        #[derive(Debug, Default)]
        pub struct Chain {
            $(pub $feature: Option<Arc<ahoi_api::$kind>>,)+
        }
    };
}
each_feature!(chain);

//! Lists in JSON whose unknown entries are passed over, so that a later version's role,
//! payment mode or meter does not hide a whole listing from older nodes.
//!
//! Not for the binary wire: there a list is exact.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// Reads a list; in JSON without the entries that do not decode.
pub(crate) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    if !deserializer.is_human_readable() {
        return Vec::deserialize(deserializer);
    }
    let entries = Vec::<serde_json::Value>::deserialize(deserializer)?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| serde_json::from_value(entry).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use crate::codec;
    use crate::manifest::Role;
    use crate::money::{Meter, Prices};
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Roles(#[serde(deserialize_with = "super::list")] Vec<Role>);

    #[test]
    fn what_a_later_version_added_is_passed_over_in_json() {
        let roles: Roles = serde_json::from_str(r#"["host","conductor","client"]"#).unwrap();
        assert_eq!(roles.0, [Role::Host, Role::Client]);
        let prices: Prices = serde_json::from_str(
            r#"[{"meter":"furlong","msat_per_million":1},{"meter":"item","msat_per_million":2}]"#,
        )
        .unwrap();
        assert_eq!((prices.0.len(), prices.of(Meter::Item)), (1, 2));
    }

    #[test]
    fn the_binary_form_is_exact() {
        let roles = Roles(vec![Role::Host]);
        let back: Roles = codec::decode(&codec::encode(&roles), 100).unwrap();
        assert_eq!(back.0, [Role::Host]);
    }
}

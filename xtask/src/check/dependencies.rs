//! The core depends on nothing, the simulation on the core alone.

use serde_json::Value;

use super::Finding;

/// The package that must stand alone.
const CORE: &str = "replicator-core";
const MANIFEST: &str = "replicator/core/Cargo.toml";

/// The package that knows the core, and whose worlds are made of nothing else.
const SIMULATION: &str = "replicator-sim";

/// The simulation has no dependency but the core.
pub fn simulation(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(found) = packages.iter().find(|package| package["name"] == SIMULATION) else {
        return vec![Finding::new("Cargo.toml", 0, "the package replicator-sim is not in the workspace")];
    };
    let dependencies = found["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let others = dependencies.iter().filter(|dependency| dependency["name"] != CORE);
    others
        .map(|dependency| {
            let name = dependency["name"].as_str().unwrap_or_default();
            let what = format!("the simulation depends on the core alone, not on `{name}`");
            Finding::new("replicator/sim/Cargo.toml", 0, what)
        })
        .collect()
}

/// The core's package has no dependencies but those of its tests.
pub fn core(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(core) = packages.iter().find(|package| package["name"] == CORE) else {
        return vec![Finding::new(MANIFEST, 0, "the package replicator-core is not in the workspace")];
    };
    let dependencies = core["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    dependencies
        .iter()
        .filter(|dependency| dependency["kind"] != "dev")
        .map(|dependency| {
            let name = dependency["name"].as_str().unwrap_or_default();
            Finding::new(MANIFEST, 0, format!("the core depends on nothing, not on `{name}`"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dependency_of_the_simulation_is_found_the_core_is_not() {
        let metadata =
            |name: &str| json!({"packages": [{"name": SIMULATION, "dependencies": [{"name": name}]}]});
        assert_eq!(simulation(&metadata("libc")).len(), 1);
        assert_eq!(simulation(&metadata(CORE)), []);
        assert_eq!(simulation(&json!({"packages": []})).len(), 1);
    }

    #[test]
    fn a_dependency_of_the_core_is_found_one_of_its_tests_is_not() {
        let metadata = |kind: Value| json!({"packages": [{"name": CORE, "dependencies": [{"name": "libc", "kind": kind}]}]});
        assert_eq!(core(&metadata(Value::Null)).len(), 1);
        assert_eq!(core(&metadata("build".into())).len(), 1);
        assert_eq!(core(&metadata("dev".into())), []);
        assert_eq!(core(&json!({"packages": []})).len(), 1);
    }
}

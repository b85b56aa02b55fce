//! The cards that are compiled in, and how they are found.

use super::super::*;

#[test]
fn every_card_of_the_table_is_there() {
    let cards = Cards::builtin();
    for (name, capability, gb, usable, bandwidth) in [
        ("RTX 3060 12GB", "8.6", 12, None, Some(360.0)),
        ("RTX 3060 Ti", "8.6", 8, None, Some(448.0)),
        ("RTX 3080 10GB", "8.6", 10, None, Some(760.0)),
        ("RTX 3090", "8.6", 24, Some(23.55), Some(936.0)),
        ("RTX 3090 Ti", "8.6", 24, Some(23.98), Some(1008.0)),
        ("RTX 4060", "8.9", 8, Some(8.0), Some(272.0)),
        ("RTX 4060 Ti 8GB", "8.9", 8, None, Some(288.0)),
        ("RTX 4060 Ti 16GB", "8.9", 16, None, Some(288.0)),
        ("RTX 4070", "8.9", 12, None, Some(504.0)),
        ("RTX 4070 Ti SUPER", "8.9", 16, Some(15.56), Some(672.0)),
        ("RTX 4080", "8.9", 16, None, Some(717.0)),
        ("RTX 4080 Laptop", "8.9", 12, Some(11.99), None),
        ("RTX 4090", "8.9", 24, Some(23.5), Some(1008.0)),
        ("RTX 5060", "12.0", 8, None, Some(448.0)),
        ("RTX 5060 Ti 8GB", "12.0", 8, None, Some(448.0)),
        ("RTX 5060 Ti 16GB", "12.0", 16, None, Some(448.0)),
        ("RTX 5070", "12.0", 12, None, Some(672.0)),
        ("RTX 5070 Ti", "12.0", 16, None, Some(896.0)),
        ("RTX 5080", "12.0", 16, None, Some(960.0)),
        ("RTX 5090", "12.0", 32, Some(31.84), Some(1792.0)),
        ("RTX PRO 6000 Blackwell", "12.0", 96, None, Some(1792.0)),
        ("GB10", "12.1", 128, None, Some(273.0)),
        ("DGX Spark", "12.1", 128, None, Some(273.0)),
        ("T4", "7.5", 16, Some(14.56), Some(320.0)),
        ("V100 32GB", "7.0", 32, None, Some(900.0)),
        ("A10", "8.6", 24, Some(22.07), Some(600.0)),
        ("A10G", "8.6", 24, Some(22.07), Some(600.0)),
        ("L4", "8.9", 24, None, Some(300.0)),
        ("RTX A6000", "8.6", 48, None, Some(768.0)),
        ("RTX 6000 Ada", "8.9", 48, Some(47.37), Some(960.0)),
        ("L40S", "8.9", 48, None, Some(864.0)),
        ("A100 40GB", "8.0", 40, None, Some(1555.0)),
        ("A100 80GB SXM", "8.0", 80, Some(79.15), Some(2039.0)),
        ("H100 SXM 80GB", "9.0", 80, Some(79.14), Some(3350.0)),
        ("H200", "9.0", 141, Some(139.0), Some(4800.0)),
        ("H20 96GB", "9.0", 96, None, Some(4000.0)),
        ("B200", "10.0", 180, Some(178.35), Some(7672.0)),
    ] {
        let card = cards.get(name).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(card.compute_capability.to_string(), capability, "{name}");
        assert_eq!((card.memory_gb, card.bandwidth_gb_s), (gb, bandwidth), "{name}");
        match usable {
            Some(gib) => assert_eq!(
                (card.usable_gib, card.usable_from),
                (Some(gib), Some(UsableFrom::Observed)),
                "{name}"
            ),
            None if card.memory == Memory::Unified => {
                assert_eq!((card.usable_gib, card.usable_from), (None, None));
            }
            None => {
                assert_eq!(card.usable_from, Some(UsableFrom::Estimated), "{name}");
                let share = card.usable_gib.expect("estimated") / f64::from(gb);
                assert!((0.9..0.985).contains(&share), "{name}: {share}");
            }
        }
    }
    assert_eq!(cards.get("RTX 4060").expect("known").pcie, Some(Pcie { generation: 4, lanes: Some(8) }));
    assert_eq!(cards.get("RTX 4090").expect("known").usable_bytes(), Some(25_232_932_864));
}

#[test]
fn cards_are_found_by_the_drivers_names_and_by_peoples() {
    let cards = Cards::builtin();
    for (asked, name) in [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("RTX 4090 24GB", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("geforce-rtx-4090", "RTX 4090"),
        ("RTX 4090 24 GiB", "RTX 4090"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("H100", "H100 SXM 80GB"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("A100 80GB", "A100 80GB SXM"),
        ("A100", "A100 40GB"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla V100-SXM2-16GB", "V100 16GB"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10G", "A10"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000 Blackwell"),
        ("NVIDIA GeForce RTX 4080 Laptop GPU", "RTX 4080 Laptop"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("4070ti super", "RTX 4070 Ti SUPER"),
        ("NVIDIA GeForce RTX 4070 SUPER", "RTX 4070 SUPER"),
        ("NVIDIA GeForce RTX 3060", "RTX 3060 12GB"),
        ("NVIDIA GB10", "DGX Spark"),
        ("NVIDIA B200", "B200"),
    ] {
        assert_eq!(cards.get(asked).map(|card| card.name.as_str()), Ok(name), "{asked}");
    }
    // Not the card of nearly that name: a slice of one, other memory, another chip.
    for asked in
        ["NVIDIA A100-SXM4-40GB MIG 1g.5gb", "RTX 4090 48GB", "RTX 4090 D", "L40", "RTX", "24GB", "", "💥"]
    {
        cards.get(asked).expect_err(asked);
    }
    let unknown = cards.get("RTX 409").expect_err("a typo");
    assert_eq!(unknown.nearest[0], "RTX 4090");
    assert!(unknown.hint().contains("RTX 4090") && unknown.hint().contains("--vram"), "{}", unknown.hint());
    assert_eq!(cards.get("L40").expect_err("not there").nearest[0], "L40S");
}

#[test]
fn a_reading_tells_cards_of_one_name_apart() {
    let cards = Cards::builtin();
    let name = |asked, gib| cards.detect(asked, gib).map(|card| card.name.as_str()).map_err(|e| e.asked);
    let ti = "NVIDIA GeForce RTX 4060 Ti";
    assert_eq!(name(ti, Some(15.99)), Ok("RTX 4060 Ti 16GB"));
    assert_eq!(name(ti, Some(7.99)), Ok("RTX 4060 Ti 8GB"));
    assert_eq!(name(ti, None), Ok("RTX 4060 Ti 8GB"));
    assert_eq!(name(ti, Some(f64::NAN)), Ok("RTX 4060 Ti 8GB"));
    assert_eq!(name("Tesla T4", Some(14.56)), Ok("T4"));
    assert_eq!(name("NVIDIA GB10", Some(119.7)), Ok("DGX Spark"));
    // One that somebody has soldered more memory to is not the usual one.
    assert_eq!(name("NVIDIA GeForce RTX 4090", Some(47.99)), Err("NVIDIA GeForce RTX 4090".to_owned()));
    assert_eq!(name("NVIDIA GeForce RTX 3060", Some(8.0)), Err("NVIDIA GeForce RTX 3060".to_owned()));
}

#[test]
fn cards_that_cannot_be_told_apart_are_refused() {
    let file = |rows: &str| format!("[estimate]\ngddr = 0.97\ngddr_ecc = 0.91\nhbm = 0.98\n{rows}");
    let row = |name: &str, more: &str| {
        format!("[[card]]\nname = \"{name}\"\ncompute = \"8.9\"\nmemory_gb = 24\nmemory = \"gddr\"\n{more}\n")
    };
    Cards::parse(&file(&row("X1", "")), "cards.toml").expect("a good file");
    for (rows, what) in [
        (row("X1", "") + row("RTX X-1", "").as_str(), "share a name"),
        (row("X1", "usable_gib = 240.0"), "does not go with 24 GB"),
        (row("X1", "usable_gib = nan"), "does not go with 24 GB"),
        (row("X1", "bandwidth = nan"), "`bandwidth`"),
        (row("X1", "pcie = \"fast\""), "`pcie` is fast"),
        (row("X1", "").replace("8.9", "new"), "`compute` is new"),
        (row("X1", "").replace("24", "0"), "does not go with 0 GB"),
        (row("X1", "speed = 1"), "unknown key `speed`"),
    ] {
        let fault = Cards::parse(&file(&rows), "cards.toml").expect_err(what);
        assert!(fault.to_string().contains(what), "{fault}");
    }
}

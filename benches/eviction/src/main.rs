//! x
mod cache;
mod grid;
mod rivals;
mod shipped;
mod trace;
fn main() -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    let g = grid::Grid::run(10)?;
    eprintln!("{:?}", t.elapsed());
    for kind in trace::ALL {
        println!("{} {:.1} TB", kind.name(), g.bytes(kind) / 1e12);
        for p in grid::CAPACITIES {
            for d in grid::ALL {
                let c = g.cell(kind, p, d)?;
                println!("  {p} {:20} {:.3} {:8.2} TB {:.2} h", d.name(), c.mean(|o| o.hit_ratio()), c.mean(|o| o.again as f64 / 1e12), c.mean(|o| o.seconds / 3600.0));
            }
        }
    }
    Ok(())
}

//! Which models of the registry run on a card, by their shapes alone: a first look that asks nobody. What is really in a
//! repo decides in the end.

use super::{Card, Model, Registry};
use crate::fit::{Architecture, Budget, Capability, Engine, Fit, Quantization, Request, Verdict, can_fit};

/// The context that a first look is for.
pub const USUAL_CONTEXT: u64 = 2048;

impl Model {
    /// Its shape as the registry has it, if it has one that can be understood.
    pub fn architecture(&self) -> Option<Architecture> {
        Architecture::from_config(self.config.as_ref()?).ok()
    }

    /// How it fits on a card as it is published, with 2,048 tokens and a batch of 1; `None` if its shape is not known.
    pub fn fit_on(&self, card: &Card) -> Option<Fit> {
        let shape = self.architecture()?;
        let quantization = shape.quantized.unwrap_or(Quantization::Bits16);
        let most = self.context.unwrap_or(USUAL_CONTEXT);
        let request = Request::new(Engine::Transformers, quantization, USUAL_CONTEXT.min(most));
        let of = card.compute_capability;
        let request = Request { capability: Some(Capability(of.major, of.minor)), ..request };
        Some(can_fit(&shape, &request, Budget { bytes: card.usable_bytes() }))
    }
}

impl Registry {
    /// The models that fit on a card as they are published, in the registry's order.
    ///
    /// ```
    /// use larder::catalogue::{Cards, Registry};
    ///
    /// let (registry, cards) = (Registry::builtin(), Cards::builtin());
    /// let card = cards.get("RTX 4090").expect("a known card");
    /// let fitting: Vec<&str> = registry.fitting(card).map(|(model, _)| model.name.as_str()).collect();
    /// assert!(fitting.contains(&"gpt2") && fitting.contains(&"Llama-2-7b"));
    /// assert!(!fitting.contains(&"Llama-3.3-70B-Instruct"));
    /// ```
    pub fn fitting<'a>(&'a self, card: &'a Card) -> impl Iterator<Item = (&'a Model, Fit)> {
        let fits = |model: &'a Model| Some((model, model.fit_on(card)?));
        self.models().iter().filter_map(fits).filter(|(_, fit)| fit.verdict == Verdict::Fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Cards;
    use crate::fit::optimal_batch_size;

    #[test]
    fn recommended_batches_fit_the_card_that_they_are_recommended_for() {
        let (registry, cards) = (Registry::builtin(), Cards::builtin());
        let mut checked = 0;
        for model in registry.models().iter().filter(|model| model.alias_of.is_none()) {
            for batch in &model.batches {
                let card = cards.get(&batch.card).expect("a known card");
                let shape = model.architecture().expect("a shape");
                let of = card.compute_capability;
                let request = Request {
                    capability: Some(Capability(of.major, of.minor)),
                    ..Request::new(Engine::Transformers, Quantization::Bits16, batch.context)
                };
                let budget = Budget { bytes: card.usable_bytes() };
                let most = optimal_batch_size(&shape, &request, budget).expect("known").value;
                assert!(u64::from(batch.size) <= most, "{}: {} of {most}", model.name, batch.size);
                checked += 1;
            }
        }
        assert!(checked >= 10, "{checked}");
    }
}

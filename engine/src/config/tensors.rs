//! The tensors of a model: Hugging Face's names and shapes, from the configuration alone.

use super::{Family, ModelConfig};

impl ModelConfig {
    /// Every tensor of the model, a tied head once (as the embedding).
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut list = Vec::new();
        let mut add = |name: String, shape: &[usize]| list.push((name, shape.to_vec()));
        match self.family {
            Family::Gpt2 => gpt2(self, &mut add),
            Family::Phi3 => phi3(self, &mut add),
            _ => llama(self, &mut add),
        }
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocab_size, self.hidden]);
        }
        list
    }
}

fn gpt2(c: &ModelConfig, add: &mut impl FnMut(String, &[usize])) {
    let (e, f) = (c.hidden, c.intermediate);
    add("transformer.wte.weight".into(), &[c.vocab_size, e]);
    add("transformer.wpe.weight".into(), &[c.max_position, e]);
    for i in 0..c.layers {
        let p = format!("transformer.h.{i}");
        for norm in ["ln_1", "ln_2"] {
            add(format!("{p}.{norm}.weight"), &[e]);
            add(format!("{p}.{norm}.bias"), &[e]);
        }
        // Conv1D: input by output.
        for (name, input, output) in [
            ("attn.c_attn", e, 3 * e),
            ("attn.c_proj", e, e),
            ("mlp.c_fc", e, f),
            ("mlp.c_proj", f, e),
        ] {
            add(format!("{p}.{name}.weight"), &[input, output]);
            add(format!("{p}.{name}.bias"), &[output]);
        }
    }
    add("transformer.ln_f.weight".into(), &[e]);
    add("transformer.ln_f.bias".into(), &[e]);
}

fn llama(c: &ModelConfig, add: &mut impl FnMut(String, &[usize])) {
    let (e, f) = (c.hidden, c.intermediate);
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    add("model.embed_tokens.weight".into(), &[c.vocab_size, e]);
    for i in 0..c.layers {
        let p = format!("model.layers.{i}");
        for (name, input, output, bias) in [
            ("self_attn.q_proj", e, q, c.qkv_bias),
            ("self_attn.k_proj", e, kv, c.qkv_bias),
            ("self_attn.v_proj", e, kv, c.qkv_bias),
            ("self_attn.o_proj", q, e, c.out_bias),
            ("mlp.gate_proj", e, f, c.mlp_bias),
            ("mlp.up_proj", e, f, c.mlp_bias),
            ("mlp.down_proj", f, e, c.mlp_bias),
        ] {
            add(format!("{p}.{name}.weight"), &[output, input]);
            if bias {
                add(format!("{p}.{name}.bias"), &[output]);
            }
        }
        if c.qk_norm {
            add(format!("{p}.self_attn.q_norm.weight"), &[c.head_dim]);
            add(format!("{p}.self_attn.k_norm.weight"), &[c.head_dim]);
        }
        let norms: &[&str] = if c.family == Family::Gemma3 {
            &[
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ]
        } else {
            &["input_layernorm", "post_attention_layernorm"]
        };
        for norm in norms {
            add(format!("{p}.{norm}.weight"), &[e]);
        }
    }
    add("model.norm.weight".into(), &[e]);
}

fn phi3(c: &ModelConfig, add: &mut impl FnMut(String, &[usize])) {
    let (e, f) = (c.hidden, c.intermediate);
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    add("model.embed_tokens.weight".into(), &[c.vocab_size, e]);
    for i in 0..c.layers {
        let p = format!("model.layers.{i}");
        add(format!("{p}.self_attn.qkv_proj.weight"), &[q + 2 * kv, e]);
        add(format!("{p}.self_attn.o_proj.weight"), &[e, q]);
        add(format!("{p}.mlp.gate_up_proj.weight"), &[2 * f, e]);
        add(format!("{p}.mlp.down_proj.weight"), &[e, f]);
        add(format!("{p}.input_layernorm.weight"), &[e]);
        add(format!("{p}.post_attention_layernorm.weight"), &[e]);
    }
    add("model.norm.weight".into(), &[e]);
}

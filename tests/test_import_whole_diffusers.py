"""Whole latent diffusion models of diffusers draw what their own code draws, from the same noise."""

import pytest
import torch
from diffusers import DDIMScheduler as DiffusersDDIM
from diffusers import UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file

from medldm.errors import InputError
from tests.foreign_models import BETAS, STEPS, pipeline
from tests.test_import_whole import AGES, RANGES, adopted, assert_equal, drawn, noise, run, shares


@torch.no_grad()
def diffusers_draws(unet, vae, scheduler, steps=STEPS, guidance=1.0, null=None, **told):
    """The loop of their pipelines, grey of 255 as (B, 1, columns, rows)."""
    scheduler.set_timesteps(steps)
    latents = noise(3, (24, 24), turned=True)() * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        says = unet(scheduler.scale_model_input(latents, t), t, **told).sample
        if null is not None:
            without = unet(latents, t, encoder_hidden_states=null).sample
            says = without + guidance * (says - without)
        latents = scheduler.step(says, t, latents).prev_sample
    image = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    return (image.mT + 1) / 2 * 255


def import_pipeline(folder, *words):
    run(folder, "--as", "theirs", "--out", folder / "pack", "--modality", "DX", *words)
    return folder / "pack"


def test_a_pipeline_of_diffusers_draws_what_diffusers_draws(tmp_path):
    theirs = diffusers_draws(*pipeline(tmp_path, UNet2DModel))
    assert_equal(drawn(import_pipeline(tmp_path)), theirs, 255, 0, 255)


@pytest.mark.parametrize(
    "spacing", [{"timestep_spacing": "leading"}, {"timestep_spacing": "trailing", "beta_schedule": "squaredcos_cap_v2"}]
)
def test_fewer_steps_are_those_of_their_schedule(tmp_path, spacing):
    """A quarter of the times, by both of the ways in which their steps are right."""
    scheduler = DiffusersDDIM(**(BETAS | {"num_train_timesteps": 40} | spacing), clip_sample=False)
    theirs = diffusers_draws(*pipeline(tmp_path, UNet2DModel, scheduler), steps=10)
    assert_equal(drawn(import_pipeline(tmp_path), steps=10), theirs, 255, 0, 255)


def test_a_class_is_told_as_diffusers_tells_it(tmp_path):
    parts = pipeline(tmp_path, UNet2DModel, num_class_embeds=3)
    pack = import_pipeline(tmp_path, "--condition", "view=front,side,top")
    theirs = diffusers_draws(*parts, class_labels=torch.tensor([2, 0]))
    assert_equal(drawn(pack, conditions=[{"view": "top"}, {"view": "front"}]), theirs, 255, 0, 255)


@pytest.mark.parametrize("linear", [False, True])
def test_context_and_guidance_are_diffusers(tmp_path, linear):
    arguments = {"cross_attention_dim": 2, "use_linear_projection": linear, "transformer_layers_per_block": 2}
    parts = pipeline(tmp_path, UNet2DConditionModel, **arguments)
    pack = import_pipeline(tmp_path, *RANGES, "--null", "0")
    told = {"encoder_hidden_states": shares(AGES)[:, None]}
    for scale, null in ((1.0, None), (3.0, torch.zeros(2, 1, 2))):
        theirs = diffusers_draws(*parts, guidance=scale, null=null, **told)
        assert_equal(drawn(pack, conditions=list(AGES), guidance=scale), theirs, 255, 0, 255)


def test_words_embedded_elsewhere_are_prompts(tmp_path):
    """With guidance away from no words, which a text encoder embeds as well."""
    generator = torch.Generator().manual_seed(0)
    words = {name: torch.randn(3, 5, generator=generator) for name in ("effusion", "no finding", "null")}
    save_file(words, tmp_path / "words.safetensors")
    parts = pipeline(tmp_path, UNet2DConditionModel, cross_attention_dim=5)
    pack = import_pipeline(tmp_path, "--prompts", tmp_path / "words.safetensors")
    told = {"encoder_hidden_states": torch.stack([words["effusion"], words["no finding"]])}
    theirs = diffusers_draws(*parts, guidance=3.0, null=words["null"].expand(2, -1, -1), **told)
    asked = [{"prompt": "effusion"}, {"prompt": "no finding"}]
    assert_equal(drawn(pack, conditions=asked, guidance=3.0), theirs, 255, 0, 255)
    with pytest.raises(InputError, match="one of: effusion, no finding; did you mean 'effusion'"):
        drawn(pack, conditions={"prompt": "effusions"})
    with pytest.raises(InputError, match="prompts of width 4; expected 5"):
        adopted(tmp_path, prompts={"a": torch.zeros(3, 4)})

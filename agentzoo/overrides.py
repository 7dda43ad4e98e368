"""Keyword arguments of each agent, typed: editors and type checkers know the fields.

Written by `python .ci/overrides.py`; a test compares it with the configurations.
"""

from typing import Literal, TypedDict


class AgentOverrides(TypedDict, total=False):
    """Fields of every agent."""

    total_steps: int
    repeat: int
    render: Literal["default", "fast"]
    frames: int | None
    protocol: str | None
    envs: int
    parallel: bool
    overlap: bool
    worker_timeout: float
    prefill: int
    pretrain: int
    update_every: int
    updates: int
    train_ratio: float
    batch_size: int
    batch_length: int
    replay_rows: int
    log_every: int
    eval_every: int | None
    eval_episodes: int | None
    final_episodes: int
    report_every: int
    checkpoint_every: int
    checkpoint_grace: int | None
    precision: Literal["fp32", "tf32", "bf16", "auto"]
    lr_decay: Literal["none", "linear", "cosine"]
    lr_decay_updates: int
    lr_final: float
    kernels: Literal["fast", "plain"]
    capture: Literal["auto", "on", "off"]


class DreamerOverrides(AgentOverrides, total=False):
    """Fields of Dreamer."""

    deter: int
    stoch: int
    hidden: int
    min_std: float
    depth: int
    units: int
    state_layers: int
    reward_layers: int
    cont_layers: int
    value_layers: int
    actor_layers: int
    state_std: float
    standardize: Literal["none", "prefill", "running"]
    reward_scale: float
    free_nats: float
    kl_scale: float
    cont: bool
    cont_scale: float
    clip_rewards: Literal["none", "tanh"]
    discount: float
    lam: float
    horizon: int
    imagine_starts: int | None
    actor_init_std: float
    actor_mean_scale: float
    actor_min_std: float
    actor_entropy: float
    mode_samples: int
    expl_amount: float
    expl_decay: float | None
    expl_min: float
    model_lr: float
    actor_lr: float
    value_lr: float
    warmup: int
    adam_eps: float
    grad_clip: float


class DreamerV2Overrides(AgentOverrides, total=False):
    """Fields of DreamerV2."""

    deter: int
    stoch: int
    classes: int
    hidden: int
    depth: int
    units: int
    layers: int
    norm: Literal["none", "layer"]
    state_std: float
    standardize: Literal["none", "prefill", "running"]
    reward_scale: float
    kl_scale: float
    kl_balance: float
    free_nats: float
    cont: bool
    cont_scale: float
    clip_rewards: Literal["none", "tanh"]
    discount: float
    lam: float
    horizon: int
    imagine_starts: int | None
    reinforce: float | None
    actor_entropy: float
    actor_min_std: float
    slow_every: int
    model_lr: float
    actor_lr: float
    value_lr: float
    adam_eps: float
    grad_clip: float
    decay: float
    prioritize_ends: bool


class DreamerV3Overrides(AgentOverrides, total=False):
    """Fields of DreamerV3."""

    size: Literal["1m", "12m", "25m", "50m", "100m", "200m", "400m"]
    units: int | None
    hidden: int | None
    deter: int | None
    classes: int | None
    depth: int | None
    stoch: int
    blocks: int
    unimix: float
    actor_unimix: float | None
    free_nats: float
    dyn_scale: float
    rep_scale: float
    horizon: int
    imag_last: int | None
    compile: Literal["auto", "on", "off"]
    discount_horizon: float
    lam: float
    entropy: float
    actor_min_std: float
    actor_max_std: float
    scale_decay: float
    scale_limit: float
    slow_rate: float
    slow_scale: float
    repval_scale: float
    lr: float
    warmup: int
    beta1: float
    beta2: float
    adaptive_clip: float


class LSImagineOverrides(AgentOverrides, total=False):
    """Fields of LSImagine."""

    alpha: float
    gate: Literal["gated", "ungated", "delta"]
    goal: str
    map_network: str
    scorer: str
    scorer_sha256: str
    scorer_words: str
    scorer_form: Literal["released", "direct", "delta"]
    scorer_negatives: str
    scorer_slope: float
    scorer_centre: float
    long_branch: bool
    jump_rule: Literal["released", "absolute"]
    zoom_margin: float
    jump_max: float
    jump_mean: float
    jump_gain: float
    jump_prob: float
    long_cap: int
    long_scale: float
    max_interval: int
    size: Literal["1m", "12m", "25m", "50m", "100m", "200m", "400m"]
    units: int | None
    hidden: int | None
    deter: int | None
    classes: int | None
    depth: int | None
    stoch: int
    blocks: int
    unimix: float
    actor_unimix: float | None
    free_nats: float
    dyn_scale: float
    rep_scale: float
    horizon: int
    imag_last: int | None
    discount_horizon: float
    lam: float
    entropy: float
    actor_min_std: float
    actor_max_std: float
    scale_decay: float
    scale_limit: float
    slow_rate: float
    slow_scale: float
    repval_scale: float
    lr: float
    warmup: int
    beta1: float
    beta2: float
    adaptive_clip: float


class PlaNetOverrides(AgentOverrides, total=False):
    """Fields of PlaNet."""

    dynamics: Literal["rssm", "stochastic", "deterministic"]
    deter: int
    stoch: int
    hidden: int
    min_std: float
    depth: int
    image_bits: int
    units: int
    reward_layers: int
    state_layers: int
    state_std: float
    standardize: Literal["none", "prefill", "running"]
    reward_scale: float
    kl_scale: float
    free_nats: float
    overshooting: int
    overshooting_scale: float
    horizon: int
    candidates: int
    elites: int
    iterations: int
    expl_amount: float
    model_lr: float
    adam_eps: float
    grad_clip: float


class TDMPC2Overrides(AgentOverrides, total=False):
    """Fields of TDMPC2."""

    size: Literal["1m", "5m", "19m"]
    latent: int | None
    units: int | None
    encoder_units: int | None
    encoder_layers: int | None
    members: int | None
    simnorm: int
    bins: int
    reach: float
    dropout: float
    episodic: bool
    episode_length: int
    discount_denom: float
    discount_min: float
    discount_max: float
    rho: float
    consistency_scale: float
    reward_scale: float
    value_scale: float
    termination_scale: float
    entropy_scale: float
    log_std_min: float
    log_std_max: float
    tau: float
    lr: float
    encoder_lr_scale: float
    grad_clip: float
    horizon: int
    candidates: int
    elites: int
    iterations: int
    proposals: int
    temperature: float
    min_std: float
    max_std: float

"""Walk to a tree in a field of ViZDoom, knowing where it is, and see what a policy would see.

python examples/walk_in_a_field.py
"""

from agentzoo.runtime import make_env

ATTACK, LEFT, RIGHT, FORWARD = 1, 4, 5, 6  # of the twelve actions


def main(seed: int = 0) -> int:
    env = make_env("vizdoom:harvest-tree,far=near,map=oracle")
    observation, info = env.reset(seed=seed)
    print({key: value.shape for key, value in observation.items()})  # what a policy reads
    print({key: value.shape for key, value in info["side"].items()})  # what `annotate` sees besides
    is_over = False
    while not is_over:
        if abs(info["bearing"]) > 8:
            action = LEFT if info["bearing"] > 0 else RIGHT
        else:
            action = ATTACK if info["distance"] < 70 else FORWARD
        observation, reward, terminated, truncated, info = env.step(action)
        is_over = terminated or truncated
    shown = (info["side"]["mask"] > 0).mean()  # 0 or 255
    print(f"reward {reward} after {info['steps_to_success']} decisions; trees fill {shown:.0%}")
    env.close()
    return int(info["steps_to_success"])


if __name__ == "__main__":
    main()

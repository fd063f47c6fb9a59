"""What `fluxline promote` and `rollback` do with the versions of registered models."""

from tasks import promotion, registry
from tasks.home import Home, open_home


def open_registry() -> Home:
    """Return the home, with MLflow and Prefect pointed to where the user or `fluxline up` has them."""
    from flows.environment import set_environment
    from flows.servers import use_running

    home = open_home().make()
    set_environment(home)
    use_running(home)
    return home


def promote_version(name: str, which: str, is_forced: bool, reason: str) -> promotion.Move:
    """Make a version the champion by hand: by number or alias, default what waits for approval, else the challenger.

    Raises:
        InputError: there is none, or the gate rejected it and force was not asked for.
    """
    home = open_registry()
    with registry.answering(home):
        name = name or registry.newest_model_name(home)
        waiting = promotion.pending(home, name) if not which else []
        version = waiting[0] if waiting else registry.find_version(home, name, which or registry.CHALLENGER)
        return promotion.promote_by_hand(home, version, reason, is_forced)


def roll_back(name: str, reason: str) -> promotion.Move:
    """Make the previous champion the champion again.

    Raises:
        InputError: there is no previous one.
    """
    home = open_registry()
    with registry.answering(home):
        return promotion.rollback(home, name or registry.newest_model_name(home), reason)

"""leco in the trainers of other libraries, over the public `leco.Run`.

    leco.integrations.transformers.LCCallback    a callback of the Trainer of transformers
    leco.integrations.lightning.LCCallback       a callback of the Trainer of Lightning

Nothing in leco imports this room. Import the module that you need; it names the extra that installs
its package.
"""

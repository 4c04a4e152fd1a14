"""leco in the trainers of other libraries, over the public `leco.Run`.

    leco.integrations.transformers.LCCallback    a callback of the Trainer of transformers
    leco.integrations.lightning.LCCallback       a callback of the Trainer of Lightning
    leco.integrations.pretrained                 save_pretrained and from_pretrained of transformers

Nothing in leco imports this room. Import the module that you need; it names the extra that installs
its package.
"""

"""The subcommands of ``kits-unet3d``. Each imports what it needs only when it runs, so that help is quick."""

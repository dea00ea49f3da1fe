"""``python -m robustbench_df`` runs the ``rdf`` command."""

from robustbench_df.cli import main

if __name__ == "__main__":
    main()

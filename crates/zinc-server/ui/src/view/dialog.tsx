/** Modal dialogs. */

import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { Notices } from './notices';
import { IconButton } from './parts';

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  class?: string;
}

/** A modal dialog. The browser keeps the focus in it and gives it back. */
export function Dialog({ title, onClose, children, class: name = '' }: DialogProps) {
  const ref = useRef<HTMLDialogElement>(null);
  const id = `dialog-${title.toLowerCase().replace(/\W+/g, '-')}`;
  useEffect(() => {
    if (!ref.current?.open) ref.current?.showModal();
  }, []);
  const outside = (event: MouseEvent) => {
    if (event.target === ref.current) onClose();
  };
  const cancel = (event: Event) => {
    event.preventDefault();
    onClose();
  };
  return (
    <dialog ref={ref} class={`dialog ${name}`} aria-labelledby={id} onClick={outside} onCancel={cancel}>
      <div class="dialog-body">
        <header class="dialog-head">
          <h2 id={id}>{title}</h2>
          <IconButton icon="close" label="Close" onClick={onClose} />
        </header>
        {children}
      </div>
      <Notices />
    </dialog>
  );
}
